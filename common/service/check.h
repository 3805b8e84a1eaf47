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
 * EXIT_UNREACHABLE as a rule. Opens the database and the port: where this service already serves at that port
 * it says so and is content, but a SQLite database is in use then (75). Makes nothing: no file, no topic, no
 * schema.
 */
int check_run(const struct service *service, const struct config *config,
              const struct client_settings *client);
/*
 * Is whoever serves at HTTP_LISTEN ready (/readyz)? 0 or EXIT_UNREACHABLE, with the reason. Reaches for nothing
 * else, so that it is cheap enough for the health check of a container.
 */
int check_ready(const struct service *service, const struct config *config);

#endif
