# A guest that powers itself off when the ACPI power button is pressed: the healthy answer to `virsh shutdown`.
#
# Machine `pc`: the power management block is PIIX4 function 3 (PCI 00:01.3), its I/O base in register 0x40. From there:
# PM1_STS at +0 and PM1_EN at +2 (bit 8: power button), PM1_CNT at +4 (bit 13 enters the sleep type in bits 10-12; QEMU: 0 is S5).
# The timer's 18.2 interrupts a second end each `hlt`, so it looks 18 times a second and sleeps in between.
.include "common.inc"
.globl _start
_start:
    cli
    xorw %ax,%ax
    movw %ax,%ds
    movw $0xcf8,%dx
    movl $0x80000b40,%eax
    outl %eax,%dx
    movw $0xcfc,%dx
    inl %dx,%eax
    andw $0xffc0,%ax
    movw %ax,pm
    movw %ax,%dx
    inb $0xa1,%al       # the button raises IRQ 9, which nobody here serves: mask it
    orb $2,%al
    outb %al,$0xa1
    addw $2,%dx
    movw $0x100,%ax
    outw %ax,%dx        # PM1_EN: listen for the button
    movb $0x80,%dl
    begin
again:
    hlt
    movw pm,%dx
    inw %dx,%ax
    testw $0x100,%ax
    jz again
    addw $4,%dx
    movw $0x2000,%ax
    outw %ax,%dx        # PM1_CNT: S5
    jmp again
pm: .word 0
finish
