# A guest that does nothing and ignores the ACPI power button: `virsh shutdown` is accepted and changes nothing.
# It never enables the button's event, so the (virtual) hardware drops it: like a guest hung before its ACPI driver loads.
.include "common.inc"
.globl _start
_start:
    begin
again:
    hlt
    jmp again
finish
