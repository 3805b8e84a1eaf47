/* scratch: a folder for a test's files, and a database: SQLite's in it, or one on a PostgreSQL of the test's
 * own. */
#ifndef SUPPORT_SCRATCH_H
#define SUPPORT_SCRATCH_H

#include "store/store.h"

struct scratch {
    char folder[128];
    char path[160]; /* of the database; "" on PostgreSQL */
    char url[256];
};

/* Before the first one: "postgres" as the program's only argument makes all of them on PostgreSQL. */
void scratch_choose(int argc, char **argv);
struct cluster *scratch_cluster(void); /* NULL: on SQLite */

void scratch_make(struct scratch *scratch); /* under TMPDIR, else /dev/shm or /tmp; aborts on failure */
size_t scratch_files(const struct scratch *scratch); /* how many are in it */
void scratch_remove(struct scratch *scratch);        /* with all that is in it          */

#endif
