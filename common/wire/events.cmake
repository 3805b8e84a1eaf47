# The C of every event, made from schemas/ by eventgen. Included by common/CMakeLists.txt after weir-wire.

# weir_eventgen(target stem schemas table): an eventgen for that table of events, and a custom command that
# writes <stem>s.h and <stem>s.c into <binary dir>/events/wire. Adding or changing a schema runs it again.
# eventgen is built from the files of wire that need no generated code, so the library can need its output.
function(weir_eventgen target stem schemas table)
  set(sources schema.c schema_canonical.c schema_default.c codec.c codec_bytes.c codec_plan.c eventgen.c)
  list(TRANSFORM sources PREPEND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/)
  add_executable(${target} ${sources})
  target_link_libraries(${target} PRIVATE weir-base PkgConfig::AVRO)
  target_compile_definitions(${target} PRIVATE EVENTGEN_TABLE="${table}")
  file(GLOB files CONFIGURE_DEPENDS ${schemas}/*.avsc ${schemas}/history/*.avsc)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/events/wire)
  file(MAKE_DIRECTORY ${folder})
  # Written when it changes: that a file is gone shows only here.
  file(CONFIGURE OUTPUT ${folder}/../${stem}s.files CONTENT "${files}\n")
  add_custom_command(
    OUTPUT ${folder}/${stem}s.h ${folder}/${stem}s.c
    COMMAND ${target} ${stem} ${schemas} ${folder}
    DEPENDS ${target} ${files} ${folder}/../${stem}s.files
    COMMENT "Generating wire/${stem}s.h"
    VERBATIM)
endfunction()

weir_eventgen(eventgen event ${CMAKE_SOURCE_DIR}/schemas wire/topics.def)
target_sources(weir-wire PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/events/wire/events.c)
target_include_directories(weir-wire PUBLIC ${CMAKE_CURRENT_BINARY_DIR}/events)
# Whoever uses weir-wire may include wire/events.h before weir-wire itself has been built.
add_custom_target(events DEPENDS ${CMAKE_CURRENT_BINARY_DIR}/events/wire/events.h)
add_dependencies(weir-wire events)
