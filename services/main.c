/* The main of every service: built once a service with -DWEIR_SERVICE=<name>_service. */
#include "service/service.h"

extern const struct service WEIR_SERVICE;

/* jemalloc's, where it is linked (CMakeLists.txt): it would make four arenas for each core. */
const char *malloc_conf = "narenas:4,lg_tcache_max:12";

int main(int argc, char **argv)
{
    return service_main(&WEIR_SERVICE, argc, argv);
}
