# A guest that takes the memory it was given: writes one byte of every page of SIZE bytes above 16 MiB, for ever, with DELAY loop turns
# between pages. The delay sets how fast QEMU grows in the first round, and the rate at which memory is dirtied afterwards.
#   --defsym DELAY=n --defsym SIZE=bytes
.include "common.inc"
.globl _start
_start:
    begin
    cli
    inb $0x92,%al       # A20 line on
    orb $2,%al
    outb %al,$0x92
    lgdt gdtr
    movl %cr0,%eax
    orl $1,%eax
    movl %eax,%cr0
    ljmp $8,$protected
.code32
protected:
    movw $16,%ax
    movw %ax,%ds
    movw %ax,%es
again:
    movl $0x1000000,%edi
page:
    incb (%edi)
    movl $DELAY,%ecx
1:  loop 1b
    addl $4096,%edi
    cmpl $(0x1000000+SIZE),%edi
    jb page
    jmp again
.code16
.balign 8
gdt: .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
gdtr: .word 23
    .long gdt
finish
