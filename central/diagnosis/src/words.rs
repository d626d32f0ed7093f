//! Words for people: what a probe looks at, times and durations.

/// What a probe looks at, as an administrator would say it.
pub(crate) fn probe_subject(probe: &str) -> &str {
    match probe {
        "kubelet" => "the kubelet's unit",
        "kvm" => "/dev/kvm",
        "qemu" => "QEMU's processes and threads",
        "domain" => "libvirt and its domains",
        "kernel-log" => "the kernel log",
        "text" => "logs of kubelet, runtime and pods",
        "kubelet-setup" => "the kubelet's files",
        "runtime" => "the container runtime",
        "pressure" => "CPU, memory and I/O pressure",
        "limits" => "limits of kernel and cgroups",
        "filesystem" => "file systems",
        "volumes" => "mounts and block devices",
        "network" => "links and addresses",
        "clock" => "the clock",
        "cpu-hardware" => "hardware",
        "security" => "SELinux's mode",
        "launcher" => "virt-launcher's processes",
        "migration" => "the migration's job",
        other => other,
    }
}

/// What a recorded case can have a file of, for the probes that deserve a sentence of their own when it has none.
pub(crate) fn recorded_subject(probe: &str) -> Option<&'static str> {
    Some(match probe {
        "kubelet" => "kubelet",
        "qemu" => "processes",
        "domain" => "libvirt",
        "kernel-log" => "kernel log",
        "text" => "logs",
        "runtime" => "container runtime",
        _ => return None,
    })
}

/// The source that is named beside a look of a probe.
pub(crate) fn probe_source(probe: &str) -> &str {
    match probe {
        "kubelet" => "systemd",
        "kvm" => "kvm",
        "qemu" => "procfs",
        "domain" => "libvirt",
        "kernel-log" => "kmsg",
        other => other,
    }
}

/// Unix time in microseconds as `2026-03-01T10:08:12Z`; the number itself where no calendar reaches.
pub(crate) fn time(wall_usec: i64) -> String {
    jiff::Timestamp::from_second(wall_usec.div_euclid(1_000_000))
        .map_or_else(|_| format!("{wall_usec} µs"), |time| time.to_string())
}

/// A duration in the largest two units that matter: `45 s`, `2 min 30 s`, `3 h 5 min`, `4 d 2 h`. Negative ones are 0 s.
pub(crate) fn duration(usec: i64) -> String {
    let secs = usec.max(0) / 1_000_000;
    let (first, second) = match secs {
        0..60 => return format!("{secs} s"),
        60..3_600 => ((secs / 60, "min"), (secs % 60, "s")),
        3_600..86_400 => ((secs / 3_600, "h"), (secs % 3_600 / 60, "min")),
        _ => ((secs / 86_400, "d"), (secs % 86_400 / 3_600, "h")),
    };
    if second.0 == 0 {
        format!("{} {}", first.0, first.1)
    } else {
        format!("{} {} {} {}", first.0, first.1, second.0, second.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (secs, want) in [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (150, "2 min 30 s"),
            (3_600, "1 h"),
            (11_100, "3 h 5 min"),
            (352_800, "4 d 2 h"),
        ] {
            assert_eq!(duration(secs * 1_000_000), want);
        }
    }

    #[test]
    fn times_are_written_to_the_second_in_utc() {
        assert_eq!(time(1_772_359_692_999_999), "2026-03-01T10:08:12Z");
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), format!("{} µs", i64::MAX));
    }
}
