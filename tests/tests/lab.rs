//! Smoke
use kulprit_tests::Lab;
use kulprit_tests::guest::{Guest, Program};
#[test]
fn smoke() -> anyhow::Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    println!("boot {:?}", node.boot_time());
    println!("{}", node.run(&["sh", "-c", "systemctl --failed; systemctl list-units --type=service; ls -l /dev/kvm; curl -s 127.0.0.1:10248/healthz; mount | grep cgroup; hostname; cat /proc/1/cgroup; ls -l /run/dbus; which qemu-system-x86_64; id libvirt-qemu"])?);
    let guest = Guest::define(&node, "g1", Program::Polite).define()?;
    println!("start {:?}", guest.start());
    println!("{:?} pid {:?}", guest.state(), guest.qemu_pid());
    println!("{:?}", guest.qemu_pid().map(kulprit_tests::process::threads));
    println!("{}", node.run(&["sh", "-c", "ps aux | grep qemu; cat /proc/$(cat /run/libvirt/qemu/g1.pid)/cgroup"])?);
    guest.virsh("shutdown")?;
    println!("off after {:?}", guest.wait_for_state("shut off (shutdown)", std::time::Duration::from_secs(10)));
    Ok(())
}
