//! What to do, made to fit the subject: commands that can be pasted, and whether a forced delete is safe.
//!
//! Names come from hosts and users and end up in a shell, so every one that is put into a command is quoted.

use kulprit_model::{FindingCode, Side, Status, attribute};

use crate::{
    attribution::Remedy,
    catalogue::{Advice, Step},
    chain::Chain,
    collect,
    identity::Identity,
    libvirt,
    scene::{Nearness, Scene},
    stage::Stage,
    symptom::SymptomSubject,
};

/// The remedy of a cause for the subject of the scene. `chain` has the facts that the evidence names; `None` for `Unexplained`.
pub(crate) fn remedy(stage: &Stage<'_>, scene: &Scene<'_>, advice: &Advice, chain: Option<&Chain<'_>>) -> Remedy {
    let fill = |steps: &[Step]| {
        steps
            .iter()
            .filter(|step| fits(scene, step))
            .map(|step| render(step.text(), &|key| value(scene, chain, key)))
            .collect()
    };
    let mut now: Vec<String> = fill(advice.now);
    if chain.is_none() {
        now.extend(collect::commands(stage, &|text| render(text, &|key| value(scene, None, key))));
    }
    Remedy {
        now,
        check: fill(advice.check),
        prevent: fill(advice.prevent),
        safe_to_force_delete: is_safe_to_force_delete(stage),
    }
}

/// Whether a step is for this kind of subject. On a node there is no VM to name.
fn fits(scene: &Scene<'_>, step: &Step) -> bool {
    match &scene.symptom.subject {
        SymptomSubject::Node { .. } => !step.text().contains("{vm}") && !step.text().contains("{namespace}"),
        SymptomSubject::Vm { .. } => match step {
            Step::Any(_) => true,
            Step::Standalone(_) => scene.is_standalone_vm,
            Step::KubeVirt(_) => !scene.is_standalone_vm,
        },
    }
}

/// True only if it is certain that nothing writes the VM's volumes any more: each of its nodes answers, both ends of a migration that is
/// not over among them, processes are being looked at there, there is no QEMU of it on any node, and libvirt does not hold it active.
/// Whatever is not known makes it false: a node that Kubernetes does not hear, a volume that another node still has.
fn is_safe_to_force_delete(stage: &Stage<'_>) -> bool {
    let hosts = stage.hosts();
    let SymptomSubject::Vm { uid, .. } = &stage.symptom.subject else { return false };
    if hosts.is_empty() || has_qemu_anywhere(stage, uid) {
        return false;
    }
    if let Some(vm) = stage.cluster_vm {
        let is_moving = vm.life.migration.as_ref().is_some_and(|migration| migration.outcome.is_none());
        let is_end = |scene: &&Scene<'_>| {
            matches!(scene.side, Side::Source | Side::Target) && is_moving && !scene.node_name.is_empty()
        };
        if !stage.scenes.iter().filter(is_end).all(|end| end.is_certain && nothing_writes_on(end)) {
            return false;
        }
        let is_looked_at = |node: &str| hosts.iter().any(|host| host.node_name == node);
        let mut nodes = vm.pods.iter().filter_map(|pod| pod.node.as_deref());
        if hosts.iter().any(|host| !host.is_certain) || !nodes.all(is_looked_at) {
            return false;
        }
        let elsewhere = [FindingCode::VolumeAttachedElsewhere, FindingCode::TwoQemus];
        let is_held = |scene: &Scene<'_>| {
            scene.states().any(|seen| elsewhere.contains(&seen.of.code) && seen.status() == Status::Present)
        };
        if stage.scenes.iter().any(is_held) {
            return false;
        }
    }
    hosts.into_iter().all(nothing_writes_on)
}

/// Whether any node shows a living QEMU of it, by the last that was heard of that node, whether or not it is a place of the VM.
fn has_qemu_anywhere(stage: &Stage<'_>, uid: &str) -> bool {
    let views = match stage.cluster_vm.map(Identity::of_cluster_vm) {
        Some(me) => stage.snapshot.views_of_any(me.uids(), me.pair()),
        None => stage.snapshot.views_of_any(std::iter::once(uid), None),
    };
    views.into_iter().any(|(_, view)| view.qemu.is_some())
}

fn nothing_writes_on(scene: &Scene<'_>) -> bool {
    if scene.cluster_vm.is_none() && scene.vm.is_none() {
        return false;
    }
    let domain = scene.vm.and_then(|vm| vm.domain.as_ref());
    let is_active = domain.is_some_and(|domain| !matches!(domain.state, libvirt::SHUTOFF | libvirt::CRASHED));
    let may_write = scene.states().any(|sighting| {
        let speaks_of_a_living_qemu = matches!(
            sighting.of.code,
            FindingCode::QemuThreadBlocked
                | FindingCode::VmDiskStalled
                | FindingCode::QemuStopped
                | FindingCode::QemuZombie
                | FindingCode::QemuTerminationPending
        );
        speaks_of_a_living_qemu && sighting.nearness == Nearness::Own && sighting.status() != Status::Absent
    });
    scene.is_qemu_gone() && !is_active && !may_write
}

/// What a placeholder stands for; `None` for a brace that is none of ours.
fn value(scene: &Scene<'_>, chain: Option<&Chain<'_>>, key: &str) -> Option<String> {
    let of_evidence = |key: &str| {
        let links = chain.map(|chain| chain.links.as_slice()).unwrap_or_default();
        links.iter().flat_map(|sheet| &sheet.lines).find_map(|line| line.attributes.get(key).map(ToOwned::to_owned))
    };
    let run = scene.run();
    let found =
        match key {
            "vm" => scene.cluster_vm.map(|vm| vm.name.clone()).or_else(|| scene.vm.map(|vm| vm.name.clone())),
            "namespace" => {
                let of_cluster = scene.cluster_vm.map(|vm| vm.namespace.clone());
                of_cluster.or_else(|| scene.vm.and_then(|vm| vm.namespace.clone()))
            }
            "node" => Some(scene.node_name.to_owned()).filter(|name| !name.is_empty()),
            "pid" => run.map(|run| run.pid.to_string()),
            "device" => of_evidence(attribute::DEVICE_NAME)
                .or_else(|| run?.disks.iter().find_map(|disk| disk.device_name.clone())),
            "mount" => of_evidence(attribute::MOUNT_POINT)
                .or_else(|| run?.disks.iter().find_map(|disk| disk.mount_point.clone())),
            "unit" => {
                let links = chain.map(|chain| chain.links.as_slice()).unwrap_or_default();
                links.iter().flat_map(|sheet| &sheet.lines).find_map(|line| line.unit.clone())
            }
            _ => return None,
        };
    Some(found.map_or_else(|| key.to_uppercase(), |found| quote(&found)))
}

/// Replaces `{key}` in one pass, so that a name with braces in it is not replaced again.
fn render(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        let inside = &rest[start + 1..];
        let filled = inside.find('}').and_then(|end| Some((value(&inside[..end])?, end)));
        if let Some((filled, end)) = filled {
            out.push_str(&filled);
            rest = &inside[end + 1..];
        } else {
            out.push('{');
            rest = inside;
        }
    }
    out.push_str(rest);
    out
}

/// The text as one word of a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    let is_plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@%+=".contains(c));
    if is_plain {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_a_shell() {
        for (name, want) in [
            ("db-0", "db-0"),
            ("/var/lib/libvirt", "/var/lib/libvirt"),
            ("a b", "'a b'"),
            ("x; rm -rf /", "'x; rm -rf /'"),
            ("it's", r"'it'\''s'"),
            ("$(id)", "'$(id)'"),
            ("", "''"),
        ] {
            assert_eq!(quote(name), want);
        }
    }

    #[test]
    fn only_our_own_braces_are_filled_and_only_once() {
        let value = |key: &str| (key == "vm").then(|| "{node}".to_owned());
        assert_eq!(render("a {vm} {.status} {x {vm}", &value), "a {node} {.status} {x {node}");
        assert_eq!(render("open { only", &value), "open { only");
    }
}
