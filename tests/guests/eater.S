# A guest that takes the memory it was given: writes one byte of every page of SIZE bytes above 16 MiB, for ever, with DELAY loop turns
# between pages. The delay sets how fast QEMU grows in the first round, and the rate at which memory is dirtied afterwards.
#   --defsym DELAY=n --defsym SIZE=bytes
# Given TICKS as well, it writes all of it once as fast as that, and then 16 pages in so many ticks of the timer (1,193,182 a second):
# the same rate on every machine. A guest that did not run for a while does not catch up.
#   --defsym TICKS=n
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
    movw %ax,%ss
.ifdef TICKS
    inb $0x61,%al       # timer 2 counts down from 65536 for ever, without a sound
    andb $0xfd,%al
    orb $1,%al
    outb %al,$0x61
    movb $0xb4,%al
    outb %al,$0x43
    xorb %al,%al
    outb %al,$0x42
    outb %al,$0x42
    movl $0x7c00,%esp
    xorl %ebp,%ebp      # not all is written yet
    movl $16,%esi
.endif
again:
    movl $0x1000000,%edi
page:
    incb (%edi)
    movl $DELAY,%ecx
1:  loop 1b
.ifdef TICKS
    decl %esi
    jnz 3f
    movl $16,%esi
    testl %ebp,%ebp
    jz 3f
2:  call timer
    movw %bx,%ax
    subw %dx,%ax
    cmpw $TICKS,%ax
    jb 2b
    movw %dx,%bx
3:
.endif
    addl $4096,%edi
    cmpl $(0x1000000+SIZE),%edi
    jb page
.ifdef TICKS
    incl %ebp
.endif
    jmp again
.ifdef TICKS
timer:                  # %dx: what timer 2 stands at
    movb $0x80,%al
    outb %al,$0x43
    inb $0x42,%al
    movb %al,%dl
    inb $0x42,%al
    movb %al,%dh
    ret
.endif
.code16
.balign 8
gdt: .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
gdtr: .word 23
    .long gdt
finish
