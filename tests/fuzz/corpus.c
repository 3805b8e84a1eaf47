/*
 * corpus: runs a fuzz target without libFuzzer, in every build: each file of its corpus, then seeded
 * mutations of them, the same on every run.
 *
 *     <target> CORPUS MUTATIONS
 */
#include "fuzz.h"

#include <dirent.h>
#include <string.h>

enum { FILES_MAX = 1000, FILE_BYTES_MAX = 64 << 10, CHANGES_MAX = 8 };

static struct file {
    uint8_t *at;
    size_t length;
} files[FILES_MAX];
static size_t file_count;

static void files_read(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);
    HOLDS(count > 0);
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && file_count < FILES_MAX) {
            FILE *file = fopen(path, "rb");
            HOLDS(file);
            struct file *into = &files[file_count++];
            into->at = malloc(FILE_BYTES_MAX);
            HOLDS(into->at);
            into->length = fread(into->at, 1, FILE_BYTES_MAX, file);
            fclose(file);
        }
        free(entries[i]);
    }
    free(entries);
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Changes, cuts, repeats and joins; mostly where the framing stays what it is. */
static size_t mutate(uint64_t *state, uint8_t *at, size_t length)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x02, 0x7f, 0x80, 0xff, 0x03, 0x40};
    size_t changes = next(state) % CHANGES_MAX + 1;
    for (size_t i = 0; i < changes && length; i++) {
        size_t place = next(state) % length;
        switch (next(state) % 6) {
        case 0:
            at[place] = (uint8_t)next(state);
            break;
        case 1:
            at[place] ^= (uint8_t)(1u << next(state) % 8);
            break;
        case 2:
            at[place] = telling[next(state) % sizeof(telling)];
            break;
        case 3:
            length = place;
            break;
        case 4:
            if (length < FILE_BYTES_MAX) {
                memmove(at + place + 1, at + place, length - place);
                length++;
            }
            break;
        default:
            memmove(at + place, at + place + 1, length - place - 1);
            length--;
            break;
        }
    }
    return length;
}

int main(int argc, char **argv)
{
    HOLDS(argc == 3);
    files_read(argv[1]);
    long mutations = strtol(argv[2], NULL, 10);
    for (size_t i = 0; i < file_count; i++)
        LLVMFuzzerTestOneInput(files[i].at, files[i].length);
    uint64_t state = 0x57454952;
    for (long i = 0; i < mutations; i++) {
        const struct file *from = &files[next(&state) % file_count];
        /* Of its very size, so that a sanitizer sees the byte after it. */
        static uint8_t room[FILE_BYTES_MAX + 1];
        memcpy(room, from->at, from->length);
        size_t length = mutate(&state, room, from->length);
        uint8_t *exact = malloc(length ? length : 1);
        HOLDS(exact);
        memcpy(exact, room, length);
        LLVMFuzzerTestOneInput(exact, length);
        free(exact);
    }
    printf("%zu files, %ld mutations\n", file_count, mutations);
    for (size_t i = 0; i < file_count; i++)
        free(files[i].at);
    return 0;
}
