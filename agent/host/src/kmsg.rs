//! The kernel's log, record by record, from where we left off.
//!
//! `/dev/kmsg` numbers its records, so nothing is read twice and nothing is lost unseen: a gap in the numbers is a count
//! ([`KmsgItem::Lost`]). Reading a record allocates nothing: it is parsed where it lies in the reader's buffer, and its text
//! is copied only when the kernel escaped something in it. Source: kernel `Documentation/ABI/testing/dev-kmsg`.

mod reader;
mod record;

pub use reader::{KmsgItem, KmsgPosition, KmsgReader, KmsgStart};
pub use record::{Kmsg, parse_kmsg_record};

#[cfg(test)]
mod tests;
