# embed_file(target symbol file): builds the file's bytes into the target as a NUL-ended
#
#     extern const char symbol[];
#
# file is relative to the CMakeLists.txt that says so. This file is its own build step as well (cmake -P).
if(CMAKE_SCRIPT_MODE_FILE AND EMBED_FILE)
  file(READ ${EMBED_FILE} bytes HEX)
  # Character constants, because bytes from 0x80 on do not fit a char that is signed.
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
  string(REPEAT "......." 16 line)
  string(REGEX REPLACE "(${line})" "\\1\n" bytes "${bytes}")
  file(WRITE ${EMBED_OUTPUT} "extern const char ${EMBED_SYMBOL}[];\nconst char ${EMBED_SYMBOL}[] = {\n${bytes}'\\0'};\n")
  return()
endif()

set(EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(embed_file target symbol file)
  get_filename_component(input ${file} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
  set(output ${CMAKE_CURRENT_BINARY_DIR}/embed/${symbol}.c)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DEMBED_FILE=${input} -DEMBED_SYMBOL=${symbol} -DEMBED_OUTPUT=${output} -P ${EMBED_SCRIPT}
    DEPENDS ${input} ${EMBED_SCRIPT}
    COMMENT "Embedding ${file}"
    VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()
