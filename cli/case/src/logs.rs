//! Logs of a case: kernel, units, pods, QEMU and libvirt, streamed line by line into findings.
