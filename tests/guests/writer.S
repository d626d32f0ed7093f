# A guest that writes its disk, 32 KiB at a time, from sector 64 to its end and round again: BURST writes per timer tick (18.2 a second).
# A disk error reported by the hypervisor is retried after a tick, as a guest's file system would.
#   --defsym BURST=n --defsym SECTORS=n (of the disk) --defsym READ=1 (reads instead of writes)
.include "common.inc"
.globl _start
_start:
    begin
    movw $64,%ax
    movw %ax,packet+2
rewind:
    movl $64,%ebx
tick:
    hlt
    movw $BURST,%bp
next:
    movl %ebx,packet+8
.if READ
    movb $0x42,%ah
.else
    movb $0x43,%ah
.endif
    call disk
    jc tick
    addl $64,%ebx
    cmpl $(SECTORS-64),%ebx
    ja rewind
    decw %bp
    jnz next
    jmp tick
finish
