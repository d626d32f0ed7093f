//! A captured part of a node's file system (`root/proc`, `root/sys`, `root/etc`), into findings.
