/* schemas: the event schemas that were built in: list them, check that every version can read the others. */
#include "cli.h"

#include "wire/schema.h"

#include <stdio.h>

static const struct setting schemas_settings[] = {
    {"JSON", SETTING_BOOL, "false", 0, 0, NULL, "One JSON object a line."},
    SETTINGS_END,
};

static void list(bool json)
{
    struct buffer line = buffer_of(1 << 20);
    for (const struct event_type *const *type = event_types; *type; type++) {
        for (int version = 1; version <= (*type)->version; version++) {
            char subject[128], file[128];
            snprintf(subject, sizeof(subject), "%s-%s", topic_get((*type)->topic)->name, (*type)->full_name);
            if (version == (*type)->version)
                snprintf(file, sizeof(file), "schemas/%s.avsc", (*type)->name);
            else
                snprintf(file, sizeof(file), "schemas/history/%s.%d.avsc", (*type)->name, version);
            int id = (*type)->number * 100 + version;
            if (!json) {
                printf("%5d  %-36s v%-3d %s\n", id, subject, version, file);
                continue;
            }
            struct json_writer writer = json_writer(&line);
            buffer_clear(&line);
            json_object_begin(&writer);
            json_member_int(&writer, "id", id);
            json_member_string(&writer, "subject", subject);
            json_member_int(&writer, "version", version);
            json_member_string(&writer, "file", file);
            json_object_end(&writer);
            printf("%.*s\n", TEXT_ARG(buffer_text(&line)));
        }
    }
    buffer_free(&line);
}

/* BACKWARD_TRANSITIVE is the rule: the newest reads what any earlier one wrote. The other way is told, not
 * required. */
static bool check_type(const struct event_type *type, struct arena *arena)
{
    const struct schema *newest, *earlier;
    struct error error;
    bool good = true;
    arena_reset(arena);
    if (schema_parse(text_of(type->schemas[type->version - 1]), arena, &newest, &error) != OK) {
        printf("%-18s not a schema: %s\n", type->name, error.text);
        return false;
    }
    for (int version = 1; version < type->version; version++) {
        if (schema_parse(text_of(type->schemas[version - 1]), arena, &earlier, &error) != OK ||
            schema_can_read(newest, earlier, &error) != OK) {
            printf("%-18s v%d cannot be read by v%d: %s\n", type->name, version, type->version, error.text);
            good = false;
        } else if (schema_can_read(earlier, newest, &error) != OK) {
            printf("%-18s v%d cannot read v%d (upgrade consumers first): %s\n", type->name, version,
                   type->version, error.text);
        }
    }
    if (good)
        printf("%-18s v%d ok\n", type->name, type->version);
    return good;
}

static int check(void)
{
    struct arena *arena = arena_new(16 << 20);
    bool good = arena != NULL;
    for (const struct event_type *const *type = event_types; arena && *type; type++)
        good &= check_type(*type, arena);
    arena_destroy(arena);
    return good ? 0 : EXIT_BAD_DATA;
}

int schemas_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("schemas");
    struct config *config = NULL;
    int exit_code;
    cli_forget_environment(schemas_settings);
    if (!cli_read(verb, schemas_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    const char *word = config_positional_count(config) ? config_positional(config, 0) : "list";
    exit_code = 0;
    if (strcmp(word, "list") == 0) {
        list(config_bool(config, "JSON"));
    } else if (strcmp(word, "check") == 0) {
        exit_code = check();
    } else if (strcmp(word, "register") == 0) {
        fprintf(stderr,
                "weir schemas register: this version has no schema registry; its schemas are built in\n");
        exit_code = EXIT_CONFIG;
    } else {
        fprintf(stderr, "weir schemas: there is no %s; list, check, register\n", word);
        exit_code = EXIT_USAGE;
    }
    config_destroy(config);
    return exit_code;
}
