//! The `cpu-hardware` probe: what the board offers to VMs, and counters of what it reports broken.
//!
//! It changes with reboots and replaced parts, so every five minutes is often. What counters grew by has happened since the look
//! before; which look that was, also of an earlier agent, is kept as the probe's position, so that nothing is told twice.

use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::hardware::{
    Heat, read_clocksource, read_edac, read_heat, read_iommu_group_count, read_machine_checks, read_pci_devices,
    read_vfio_ids,
};
use kulprit_judge::hardware::{HardwareCounters, judge_clocksource, judge_counters, judge_iommu, judge_vfio};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::Moment;

use super::blocking::Late;
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};

const NAME: &str = "cpu-hardware";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the processor and the board offer, and what they report broken.",
    sources: "/sys/kernel/iommu_groups, /sys/bus/pci, /sys/devices/system/{clocksource,cpu/*/thermal_throttle,edac}, /proc/cmdline, modprobe.d; MCE of /proc/interrupts where the kernel log is denied",
    needs: "/sys of the host",
    lost_without: "everything it says",
    look_every: Duration::from_secs(300),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes some ms; a device that hangs on the bus makes sysfs wait.
const DEADLINE: Duration = Duration::from_secs(10);

async fn run(context: ProbeContext) {
    let mut blocking = context.blocking();
    let boot_id = context.host.boot_id().unwrap_or_default();
    let mut before = context.start_at.as_deref().and_then(|position| parse_position(position, &boot_id));
    loop {
        let draft = context.begin(NAME);
        let (host, at) = (context.host.clone(), context.clock.now());
        let draft = match blocking.run(DEADLINE, move || read(&host, at)).await {
            Ok(seen) => {
                count(&context.counters.errors, seen.n_errors);
                let now = seen.counters.clone();
                let position = (!boot_id.is_empty()).then(|| position(&boot_id, &now));
                let verdicts = seen.judge(at, before.as_ref());
                before = Some(now);
                draft.verdicts(verdicts).position(position)
            }
            Err(Late { for_secs }) => draft.blind(format!("reading sysfs has not returned for {for_secs} s")),
        };
        if !context.send_and_rest(draft.end(&context.clock), SPEC.look_every).await {
            return;
        }
    }
}

/// What was read.
struct Seen {
    verdicts: Vec<Verdict>,
    n_groups: Reading<usize>,
    clocksource: Reading<String>,
    counters: HardwareCounters,
    is_log_readable: bool,
    n_errors: u64,
}

impl Seen {
    fn judge(self, at: Moment, before: Option<&HardwareCounters>) -> Vec<Verdict> {
        let mut verdicts = self.verdicts;
        verdicts.push(judge_iommu(at, &self.n_groups));
        verdicts.push(judge_clocksource(at, &self.clocksource));
        if let Some(before) = before {
            verdicts.extend(judge_counters(at, before, &self.counters, self.is_log_readable));
        }
        verdicts
    }
}

fn read(host: &HostRoot, at: Moment) -> Seen {
    let mut n_errors = 0;
    let mut note = |error: kulprit_host::ReadError| {
        n_errors += 1;
        chain(&error)
    };
    let devices = read_pci_devices(host).map_err(&mut note).unwrap_or_default();
    let edac = read_edac(host).ok();
    let is_log_readable = host.open("dev/kmsg").is_ok();
    // The table is long where processors are many, and the log tells more.
    let machine_checks =
        if is_log_readable { None } else { read_machine_checks(host).map_err(&mut note).ok().flatten() };
    Seen {
        verdicts: judge_vfio(at, &devices, &read_vfio_ids(host)).into_iter().collect(),
        n_groups: read_iommu_group_count(host).map_err(&mut note),
        clocksource: read_clocksource(host).map_err(&mut note),
        counters: HardwareCounters::of(edac.as_deref(), read_heat(host), machine_checks),
        is_log_readable,
        n_errors,
    }
}

/// Counters as they are kept: boot, memory errors, heat of cores and packages, machine checks; `-` for what is not counted.
fn position(boot_id: &str, counters: &HardwareCounters) -> String {
    let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let HardwareCounters { memory_errors, heat, machine_checks } = counters;
    let (core, package) = (heat.map(|heat| heat.core_total), heat.map(|heat| heat.package_total));
    let (errors, checks) = (shown(*memory_errors), shown(*machine_checks));
    format!("{boot_id} {errors} {} {} {checks}", shown(core), shown(package))
}

/// `None` for those of another boot, and for what is none.
fn parse_position(text: &str, boot_id: &str) -> Option<HardwareCounters> {
    let mut fields = text.split(' ');
    if fields.next()? != boot_id || boot_id.is_empty() {
        return None;
    }
    let mut number = || Some(fields.next()?.parse::<u64>().ok());
    let (memory_errors, core, package) = (number()?, number()?, number()?);
    let heat = core.zip(package).map(|(core_total, package_total)| Heat { core_total, package_total });
    // An earlier agent did not keep it.
    let machine_checks = number().flatten();
    Some(HardwareCounters { memory_errors, heat, machine_checks })
}

#[cfg(test)]
mod tests {
    use kulprit_model::FindingCode::{
        ClocksourceSlow, CpuOverheated, DeviceNotBoundToVfio, HardwareMemoryError, IommuMissing,
    };
    use kulprit_model::Status::{Absent, Present, Unknown};

    use super::*;
    use crate::probes::testing::{Probe, status_of, write};

    const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    const HEAT: &str = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count";
    const BOOT: &str = "01234567-89ab-cdef-0123-456789abcdef";

    #[tokio::test]
    async fn this_machine_is_read() {
        let look = Probe::once(&SPEC, HostRoot::new("/")).await;
        assert_eq!(look.blind_because, None);
        assert!(status_of(&look, ClocksourceSlow).is_some_and(|status| status != Unknown), "{look:?}");
        assert!(status_of(&look, IommuMissing).is_some());
        assert!(look.position.is_some());
    }

    #[tokio::test]
    async fn what_is_missing_is_unknown_and_what_is_there_is_judged() {
        let root = tempfile::tempdir().unwrap();
        let look = Probe::once(&SPEC, HostRoot::new(root.path())).await;
        assert_eq!((status_of(&look, ClocksourceSlow), status_of(&look, IommuMissing)), (Some(Unknown), Some(Unknown)));
        assert_eq!(status_of(&look, DeviceNotBoundToVfio), None, "no device was chosen");
        write(root.path(), CLOCK, "hpet\n");
        std::fs::create_dir_all(root.path().join("sys/kernel/iommu_groups/3")).unwrap();
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/uevent", "DRIVER=nvidia\n");
        write(root.path(), "sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n");
        let look = Probe::once(&SPEC, HostRoot::new(root.path())).await;
        assert_eq!((status_of(&look, ClocksourceSlow), status_of(&look, IommuMissing)), (Some(Present), Some(Absent)));
        assert_eq!(status_of(&look, DeviceNotBoundToVfio), Some(Present));
    }

    #[tokio::test]
    async fn heat_since_the_last_look_is_told_also_when_an_earlier_agent_had_it() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/sys/kernel/random/boot_id", &format!("{BOOT}\n"));
        write(root.path(), HEAT, "5\n");
        write(root.path(), &HEAT.replace("package", "core"), "5\n");
        let told = async |start_at: Option<&str>| {
            let look = Probe::once_with(&SPEC, HostRoot::new(root.path()), |context| {
                context.start_at = start_at.map(str::to_owned);
            })
            .await;
            let heat = look.verdicts.iter().find_map(|verdict| match verdict {
                Verdict::Occurrence(one) if one.code == CpuOverheated => Some(one.count),
                Verdict::Occurrence(_) | Verdict::State(_) => None,
            });
            (heat, look.position.unwrap())
        };
        let (heat, position) = told(None).await;
        assert_eq!(heat, None, "nobody knows when that was");
        assert_eq!(told(Some(&position)).await.0, None);
        assert_eq!(told(Some(&format!("{BOOT} - 5 2"))).await.0, Some(3));
        assert_eq!(told(Some("another-boot - 0 0")).await.0, None);
        assert_eq!(told(Some("garbage")).await.0, None);
    }

    #[tokio::test]
    async fn a_machine_check_is_told_where_the_kernel_log_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/sys/kernel/random/boot_id", &format!("{BOOT}\n"));
        write(
            root.path(),
            "proc/interrupts",
            "MCE:  1  1  Machine check exceptions\nMCP:  7  7  Machine check polls\n",
        );
        let told = async || {
            let look = Probe::once_with(&SPEC, HostRoot::new(root.path()), |context| {
                context.start_at = Some(format!("{BOOT} - - - 0"));
            })
            .await;
            let is_it =
                |verdict: &Verdict| matches!(verdict, Verdict::Occurrence(one) if one.code == HardwareMemoryError);
            (look.verdicts.iter().any(is_it), look.position.unwrap())
        };
        assert_eq!(told().await, (true, format!("{BOOT} - - - 2")));
        write(root.path(), "dev/kmsg", "");
        assert_eq!(told().await, (false, format!("{BOOT} - - - -")));
    }

    #[test]
    fn a_position_reads_back() {
        for counters in [
            HardwareCounters::default(),
            HardwareCounters {
                memory_errors: Some(3),
                heat: Some(Heat { core_total: 1, package_total: 2 }),
                machine_checks: Some(4),
            },
        ] {
            assert_eq!(parse_position(&position(BOOT, &counters), BOOT), Some(counters));
        }
        let earlier = parse_position(&format!("{BOOT} 3 1 2"), BOOT).unwrap();
        assert_eq!((earlier.memory_errors, earlier.machine_checks), (Some(3), None));
    }
}
