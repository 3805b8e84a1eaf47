/* scratch: a folder for a test's files, and a database in it. */
#ifndef SUPPORT_SCRATCH_H
#define SUPPORT_SCRATCH_H

#include "store/store.h"

struct scratch {
    char folder[128];
    char path[160]; /* of the database */
    char url[176];
};

void scratch_make(struct scratch *scratch); /* under TMPDIR, else /dev/shm or /tmp; aborts on failure */
size_t scratch_files(const struct scratch *scratch); /* how many are in it */
void scratch_remove(struct scratch *scratch);        /* with all that is in it          */

#endif
