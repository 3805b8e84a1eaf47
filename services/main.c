/* The main of every service: built once a service with -DSERVICE=<name>_service. */
#include "service/service.h"

extern const struct service SERVICE;

int main(int argc, char **argv)
{
    return service_main(&SERVICE, argc, argv);
}
