//! Job figures and states from libvirt's typed parameters.
//!
//! Source: libvirt-domain.h, `VIR_DOMAIN_STATS_STATE_*` and `VIR_DOMAIN_JOB_*`: times in ms, sizes in bytes, rates in bytes/s;
//! `memory_dirty_rate` in pages/s. Unknown names are skipped: a newer libvirt may send more.

use kulprit_proto::worker::Job;

use crate::text::{MAX_MESSAGE, clean};

/// The value of one typed parameter, widened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    Uint(u64),
    Double(f64),
    Bool(bool),
    Text(Vec<u8>),
}

impl Value {
    /// The number, if it is one that is not negative. libvirt mixes int, uint and llong between versions.
    fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Uint(value) => Some(*value),
            Self::Double(_) | Self::Bool(_) | Self::Text(_) => None,
        }
    }

    fn as_i32(&self) -> Option<i32> {
        match self {
            Self::Int(value) => i32::try_from(*value).ok(),
            Self::Uint(value) => i32::try_from(*value).ok(),
            Self::Double(_) | Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

/// The job of `job_type` (virDomainJobType) with these parameters. Of two with one name the last counts.
pub(crate) fn job_from_params(job_type: i32, params: impl IntoIterator<Item = (String, Value)>) -> Job {
    let mut job = Job { r#type: job_type, ..Job::default() };
    for (name, value) in params {
        let Some(field) = u64_field(&mut job, &name) else {
            match name.as_str() {
                "operation" => job.operation = value.as_i32(),
                "auto_converge_throttle" => job.auto_converge_throttle_pct = value.as_i32(),
                "success" => job.success = if let Value::Bool(success) = value { Some(success) } else { None },
                "errmsg" => {
                    job.error = if let Value::Text(text) = value { Some(clean(&text, MAX_MESSAGE)) } else { None }
                }
                _ => {}
            }
            continue;
        };
        *field = value.as_u64();
    }
    job
}

/// State and reason of a domain, if both are there.
pub(crate) fn state_from_params(params: impl IntoIterator<Item = (String, Value)>) -> Option<(i32, i32)> {
    let (mut state, mut reason) = (None, None);
    for (name, value) in params {
        match name.as_str() {
            "state.state" => state = value.as_i32(),
            "state.reason" => reason = value.as_i32(),
            _ => {}
        }
    }
    state.zip(reason)
}

fn u64_field<'a>(job: &'a mut Job, name: &str) -> Option<&'a mut Option<u64>> {
    Some(match name {
        "time_elapsed" => &mut job.time_elapsed_ms,
        "time_remaining" => &mut job.time_remaining_ms,
        "downtime" => &mut job.downtime_ms,
        "setup_time" => &mut job.setup_time_ms,
        "data_total" => &mut job.data_total_bytes,
        "data_processed" => &mut job.data_processed_bytes,
        "data_remaining" => &mut job.data_remaining_bytes,
        "memory_total" => &mut job.memory_total_bytes,
        "memory_processed" => &mut job.memory_processed_bytes,
        "memory_remaining" => &mut job.memory_remaining_bytes,
        "memory_bps" => &mut job.memory_rate_bytes,
        "memory_dirty_rate" => &mut job.memory_dirty_rate_pages,
        "memory_page_size" => &mut job.memory_page_size_bytes,
        "memory_iteration" => &mut job.memory_iteration,
        "memory_postcopy_requests" => &mut job.memory_postcopy_requests,
        "disk_total" => &mut job.disk_total_bytes,
        "disk_processed" => &mut job.disk_processed_bytes,
        "disk_remaining" => &mut job.disk_remaining_bytes,
        "disk_bps" => &mut job.disk_rate_bytes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(params: &[(&str, Value)], want: &Job) {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        assert_eq!(&job_from_params(2, params), want);
    }

    #[test]
    fn figures_land_in_their_fields_whatever_integer_type_they_came_as() {
        check(
            &[
                ("operation", Value::Int(5)),
                ("memory_remaining", Value::Uint(4096)),
                ("memory_bps", Value::Int(10)),
                ("auto_converge_throttle", Value::Int(20)),
                ("success", Value::Bool(false)),
                ("errmsg", Value::Text(b"Channel \xff error".to_vec())),
            ],
            &Job {
                r#type: 2,
                operation: Some(5),
                memory_remaining_bytes: Some(4096),
                memory_rate_bytes: Some(10),
                auto_converge_throttle_pct: Some(20),
                success: Some(false),
                error: Some("Channel \u{fffd} error".into()),
                ..Job::default()
            },
        );
    }

    #[test]
    fn what_is_unknown_or_of_the_wrong_type_is_not_a_zero() {
        check(
            &[
                ("of_a_newer_libvirt", Value::Uint(1)),
                ("memory_total", Value::Text(b"many".to_vec())),
                ("data_total", Value::Int(-1)),
                ("operation", Value::Uint(u64::MAX)),
                ("disk_bps", Value::Double(1.5)),
            ],
            &Job { r#type: 2, ..Job::default() },
        );
    }

    #[test]
    fn a_state_is_known_with_its_reason_only() {
        for (params, want) in [
            (
                &[("state.state", Value::Int(3)), ("state.reason", Value::Int(5)), ("vcpu.current", Value::Uint(1))][..],
                Some((3, 5)),
            ),
            (&[("state.state", Value::Int(3))], None),
            (&[("state.state", Value::Text(b"3".to_vec())), ("state.reason", Value::Int(5))], None),
            (&[], None),
        ] {
            let named = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            assert_eq!(state_from_params(named), want, "{params:?}");
        }
    }

    #[test]
    fn every_figure_of_libvirt_has_a_field() {
        for name in [
            "time_elapsed",
            "time_remaining",
            "downtime",
            "setup_time",
            "data_total",
            "data_processed",
            "data_remaining",
            "memory_total",
            "memory_processed",
            "memory_remaining",
            "memory_bps",
            "memory_dirty_rate",
            "memory_page_size",
            "memory_iteration",
            "memory_postcopy_requests",
            "disk_total",
            "disk_processed",
            "disk_remaining",
            "disk_bps",
        ] {
            let job = job_from_params(0, [(name.to_owned(), Value::Uint(7))]);
            assert_ne!(job, Job::default(), "{name}");
        }
    }
}
