/*
 * check: can this service reach all it needs? One line a part on stdout, "ok" or "FAIL" first.
 */
#ifndef SERVICE_CHECK_H
#define SERVICE_CHECK_H

#include "kafka/client.h"
#include "service/service.h"

enum { CHECK_TIMEOUT_MS = 5000 };

/*
 * 0, or the code that `serve` would end with: EXIT_CONFIG where a part says so, else the first failure's,
 * EXIT_UNREACHABLE as a rule. Opens the database and the port, and so fails while the service runs: it says
 * so. Makes nothing: no file, no topic, no schema.
 */
int check_run(const struct service *service, const struct config *config,
              const struct client_settings *client);

#endif
