// The process that holds a pod's namespaces: it does nothing. Built by the lab, statically, for the sandbox image.
#include <unistd.h>

int main(void) {
    for (;;) pause();
}
