//! What a stream says first, checked before anything else is believed.

use kulprit_model::StreamId;
use kulprit_proto::v1;
use prost::Message as _;

/// A Hello that cannot be accepted; the text names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The stream began with something else.
    #[error("hello: missing; it must be the first message of a stream")]
    NotFirst,
    /// It is of another cluster's node.
    #[error(
        "hello.cluster: `{theirs}`, and this central is of cluster `{ours}`; leave `cluster` out of the agent's configuration, or give both the same"
    )]
    OtherCluster {
        /// Of the agent.
        theirs: String,
        /// Of this central.
        ours: String,
    },
    /// A field is wrong.
    #[error("hello.{field}: {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl HelloError {
    /// The word in metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFirst => "no_hello",
            Self::OtherCluster { .. } => "other_cluster",
            Self::Field { .. } => "bad_hello",
        }
    }
}

/// Longest node name, cluster and boot id, bytes: Kubernetes' limit for names.
pub(super) const MAX_NAME_BYTES: usize = 253;
/// Largest Hello, bytes: it is kept with its node.
const MAX_HELLO_BYTES: usize = 32 * 1024;
/// Most sentences of `cannot_show`.
const MAX_CANNOT_SHOW: usize = 64;
/// Sequence numbers and epochs beyond this are nonsense, and more than the store can count.
pub(super) const MAX_COUNT: u64 = i64::MAX.unsigned_abs();

/// The stream that a Hello opens; an empty cluster is `own_cluster`.
///
/// # Errors
/// If a field that names the stream is missing or out of bounds, or names another cluster.
pub fn check(hello: &v1::Hello, own_cluster: &str) -> Result<StreamId, HelloError> {
    let error = |field, problem: &str| HelloError::Field { field, problem: problem.to_owned() };
    for (field, text) in [("cluster", &hello.cluster), ("node", &hello.node), ("boot_id", &hello.boot_id)] {
        if text.len() > MAX_NAME_BYTES {
            return Err(error(field, &format!("longer than {MAX_NAME_BYTES} bytes")));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(error(field, "holds white space or control characters"));
        }
        if text.is_empty() && field != "cluster" {
            return Err(error(field, "missing"));
        }
    }
    if hello.epoch == 0 || hello.epoch > MAX_COUNT {
        return Err(error("epoch", &format!("{}, where 1 to {MAX_COUNT} is due", hello.epoch)));
    }
    if hello.cannot_show.len() > MAX_CANNOT_SHOW {
        return Err(error("cannot_show", &format!("more than {MAX_CANNOT_SHOW} sentences")));
    }
    let n_bytes = hello.encoded_len();
    if n_bytes > MAX_HELLO_BYTES {
        return Err(error("inventory", &format!("with all else {n_bytes} bytes, where {MAX_HELLO_BYTES} are taken")));
    }
    if !hello.cluster.is_empty() && hello.cluster != own_cluster {
        let (theirs, ours) = (hello.cluster.clone(), own_cluster.to_owned());
        return Err(HelloError::OtherCluster { theirs, ours });
    }
    Ok(StreamId { cluster: own_cluster.to_owned(), node: hello.node.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello { node: "n1".to_owned(), boot_id: "b".to_owned(), epoch: 1, ..v1::Hello::default() }
    }

    #[track_caller]
    fn check_error(hello: &v1::Hello, text: &str) {
        assert_eq!(check(hello, "own").unwrap_err().to_string(), text);
    }

    #[test]
    fn an_empty_cluster_is_our_own() {
        assert_eq!(check(&hello(), "own").unwrap(), StreamId { cluster: "own".to_owned(), node: "n1".to_owned() });
        let named = v1::Hello { cluster: "own".to_owned(), ..hello() };
        assert_eq!(check(&named, "own").unwrap().cluster, "own");
    }

    #[test]
    fn the_field_is_named() {
        check_error(&v1::Hello { node: String::new(), ..hello() }, "hello.node: missing");
        check_error(&v1::Hello { boot_id: String::new(), ..hello() }, "hello.boot_id: missing");
        check_error(&v1::Hello { epoch: 0, ..hello() }, "hello.epoch: 0, where 1 to 9223372036854775807 is due");
        check_error(&v1::Hello { node: "n".repeat(254), ..hello() }, "hello.node: longer than 253 bytes");
        check_error(
            &v1::Hello { node: "n\n1".to_owned(), ..hello() },
            "hello.node: holds white space or control characters",
        );
        let inventory = v1::Inventory { kernel: "k".repeat(40_000), ..v1::Inventory::default() };
        check_error(
            &v1::Hello { inventory: Some(inventory), ..hello() },
            "hello.inventory: with all else 40017 bytes, where 32768 are taken",
        );
        check_error(
            &v1::Hello { cluster: "c".to_owned(), ..hello() },
            "hello.cluster: `c`, and this central is of cluster `own`; leave `cluster` out of the agent's configuration, or give both the same",
        );
        let cannot_show = vec![String::new(); 65];
        check_error(&v1::Hello { cannot_show, ..hello() }, "hello.cannot_show: more than 64 sentences");
    }
}
