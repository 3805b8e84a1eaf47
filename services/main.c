/* The main of every service: built once a service with -DWEIR_SERVICE=<name>_service. */
#include "service/service.h"

extern const struct service WEIR_SERVICE;

int main(int argc, char **argv)
{
    return service_main(&WEIR_SERVICE, argc, argv);
}
