//! Keeps the C library's allocator small: a process that mostly waits, with many threads that each allocate now and then.
//!
//! glibc gives every thread that allocates while another does an arena of its own, up to eight per core, and an arena gives nothing
//! back while anything in it lives (mallopt(3), `M_ARENA_MAX`). A thread per source of blocking calls makes that megabytes. One arena
//! costs a lock, which threads that mostly wait do not feel.
#![allow(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

/// One arena for all threads. To be called before the first of them starts; without glibc it does nothing.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and no pointer; it locks the allocator, and at the start no other thread allocates.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the kernel back what the start used and nobody holds any more: tables are compiled in buffers far larger than they are.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and no pointer, may be called from any thread (MT-Safe, malloc_trim(3)), and gives back
    // only pages that hold nothing.
    unsafe {
        libc::malloc_trim(0);
    }
}
