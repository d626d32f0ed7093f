//! What somebody may do, and so be told. Pure: what Kubernetes says of it comes in.

use std::{collections::BTreeSet, fmt};

use crate::kubernetes::review::Attributes;

/// What a right is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `virtualmachineinstances.kubevirt.io`.
    Vm,
    /// `virtualmachineinstancemigrations.kubevirt.io`.
    Migration,
    /// `nodes`.
    Node,
}

/// The right to get one object, all of a namespace, or all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// On what.
    pub resource: Resource,
    /// Empty: cluster-wide.
    pub namespace: String,
    /// Empty: on all of them.
    pub name: String,
}

/// Namespace and name.
pub type Key = (String, String);

impl Resource {
    /// Group and plural.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Vm => ("kubevirt.io", "virtualmachineinstances"),
            Self::Migration => ("kubevirt.io", "virtualmachineinstancemigrations"),
            Self::Node => ("", "nodes"),
        }
    }

    /// On all of them.
    #[must_use]
    pub const fn all(self) -> Right {
        Right { resource: self, namespace: String::new(), name: String::new() }
    }

    /// On all of a namespace.
    #[must_use]
    pub fn within(self, namespace: &str) -> Right {
        Right { namespace: namespace.to_owned(), ..self.all() }
    }

    /// On one.
    #[must_use]
    pub fn one(self, namespace: &str, name: &str) -> Right {
        Right { name: name.to_owned(), ..self.within(namespace) }
    }
}

impl Right {
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let (group, resource) = self.resource.parts();
        Attributes { group, resource, namespace: &self.namespace, name: &self.name }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, resource) = self.resource.parts();
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "get {resource}{dot}{group}")?;
        let short = |text: &str| text.chars().take(80).collect::<String>();
        if !self.name.is_empty() {
            write!(f, " `{}`", short(&self.name))?;
        }
        match (self.resource, self.namespace.is_empty()) {
            (Resource::Node, _) => Ok(()),
            (_, true) => f.write_str(" in all namespaces"),
            (_, false) => write!(f, " in the namespace `{}`", short(&self.namespace)),
        }
    }
}

/// Of what somebody's rights are wanted to be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Namespaces of VMs in lists.
    pub namespaces: BTreeSet<String>,
    /// VMs that are meant by name.
    pub vms: BTreeSet<Key>,
    /// Migrations that are meant by name.
    pub migrations: BTreeSet<Key>,
}

impl About {
    /// VMs of these namespaces, in lists; what has no namespace is no VM of Kubernetes.
    #[must_use]
    pub fn namespaces(namespaces: impl IntoIterator<Item = String>) -> Self {
        let namespaces = namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect();
        Self { namespaces, ..Self::default() }
    }

    /// VMs that are meant by name.
    #[must_use]
    pub fn vms(vms: impl IntoIterator<Item = Key>) -> Self {
        let vms = vms.into_iter().filter(|(namespace, _)| !namespace.is_empty()).collect();
        Self { vms, ..Self::default() }
    }

    /// Migrations that are meant by name.
    #[must_use]
    pub fn migrations(migrations: impl IntoIterator<Item = Key>) -> Self {
        Self { migrations: migrations.into_iter().collect(), ..Self::default() }
    }

    /// The rights to ask for, beside those on all.
    pub(super) fn rights(&self) -> impl Iterator<Item = Right> {
        let Self { namespaces, vms, migrations } = self;
        let named = |resource: Resource, keys: &BTreeSet<Key>| -> Vec<Right> {
            keys.iter().map(|(namespace, name)| resource.one(namespace, name)).collect()
        };
        let within: Vec<Right> = namespaces.iter().map(|namespace| Resource::Vm.within(namespace)).collect();
        within.into_iter().chain(named(Resource::Vm, vms)).chain(named(Resource::Migration, migrations))
    }
}

/// What somebody may be shown: rights that he has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    is_whole: bool,
    granted: BTreeSet<Right>,
}

impl Sight {
    /// Everything.
    #[must_use]
    pub const fn whole() -> Self {
        Self { is_whole: true, granted: BTreeSet::new() }
    }

    /// What these rights show.
    #[must_use]
    pub fn of(granted: impl IntoIterator<Item = Right>) -> Self {
        Self { is_whole: false, granted: granted.into_iter().collect() }
    }

    /// The same, and facts of nodes.
    #[must_use]
    pub fn with_nodes(mut self) -> Self {
        self.granted.insert(Resource::Node.all());
        self
    }

    /// Whether nothing has to be left out.
    #[must_use]
    pub fn shows_all(&self) -> bool {
        self.is_whole || (self.shows_nodes() && self.shows_all_vms())
    }

    /// Whether facts of any node may be shown.
    #[must_use]
    pub fn shows_nodes(&self) -> bool {
        self.has(&Resource::Node.all())
    }

    /// Whether every VM of Kubernetes may be shown.
    #[must_use]
    pub fn shows_all_vms(&self) -> bool {
        self.has(&Resource::Vm.all())
    }

    /// Whether this VM may be shown. One without a namespace is a process of its node to Kubernetes.
    #[must_use]
    pub fn shows_vm(&self, namespace: &str, name: &str) -> bool {
        if namespace.is_empty() {
            return self.shows_nodes();
        }
        self.shows_all_vms()
            || self.has(&Resource::Vm.within(namespace))
            || self.has(&Resource::Vm.one(namespace, name))
    }

    /// Whether this migration may be shown.
    #[must_use]
    pub fn shows_migration(&self, namespace: &str, name: &str) -> bool {
        self.has(&Resource::Migration.all()) || self.has(&Resource::Migration.one(namespace, name))
    }

    /// Whether something that `before` showed, and that was asked about again, is not shown any more.
    #[must_use]
    pub fn has_lost(&self, before: &Self, about: &About) -> bool {
        let asked: BTreeSet<Right> = about.rights().chain([Resource::Node.all(), Resource::Vm.all()]).collect();
        let is_shown = |right: &Right| self.has(right) || (right.resource == Resource::Vm && self.shows_all_vms());
        before.granted.intersection(&asked).any(|right| !is_shown(right))
    }

    fn has(&self, right: &Right) -> bool {
        self.is_whole || self.granted.contains(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_reads_as_a_person_would_grant_it() {
        let texts = [
            Resource::Vm.one("prod", "db-0"),
            Resource::Vm.within("prod"),
            Resource::Vm.all(),
            Resource::Node.one("", "n1"),
            Resource::Node.all(),
            Resource::Migration.one("prod", "m"),
        ]
        .map(|right| right.to_string());
        let want = [
            "get virtualmachineinstances.kubevirt.io `db-0` in the namespace `prod`",
            "get virtualmachineinstances.kubevirt.io in the namespace `prod`",
            "get virtualmachineinstances.kubevirt.io in all namespaces",
            "get nodes `n1`",
            "get nodes",
            "get virtualmachineinstancemigrations.kubevirt.io `m` in the namespace `prod`",
        ];
        assert_eq!(texts, want);
    }

    #[test]
    fn a_sight_shows_what_its_rights_are_on_and_nothing_else() {
        let one = Sight::of([Resource::Vm.one("prod", "db-0"), Resource::Vm.within("test")]);
        assert!(one.shows_vm("prod", "db-0") && one.shows_vm("test", "x"));
        assert!(!one.shows_vm("prod", "db-1") && !one.shows_vm("", "db-0") && !one.shows_vm("tes", "x"));
        assert!(!one.shows_nodes() && !one.shows_all_vms() && !one.shows_migration("prod", "db-0"));
        let nodes = Sight::of([Resource::Node.all()]);
        assert!(nodes.shows_nodes() && nodes.shows_vm("", "plain") && !nodes.shows_vm("prod", "db-0"));
        let vms = Sight::of([Resource::Vm.all()]);
        assert!(vms.shows_vm("prod", "db-0") && !vms.shows_vm("", "plain") && !vms.shows_all());
        assert!(Sight::whole().shows_all() && Sight::whole().shows_migration("a", "b"));
        assert!(Sight::of([Resource::Vm.all(), Resource::Node.all()]).shows_all());
    }

    #[test]
    fn a_right_is_lost_only_where_it_was_asked_for_again() {
        let about = |name: &str| About::namespaces([name.to_owned()]);
        let of = |name: &str| Sight::of([Resource::Vm.within(name)]);
        assert!(Sight::default().has_lost(&of("a"), &about("a")));
        assert!(!Sight::default().has_lost(&of("a"), &about("b")), "nobody asked");
        assert!(!of("a").has_lost(&of("a"), &about("a")));
        assert!(!Sight::of([Resource::Vm.all()]).has_lost(&of("a"), &about("a")));
        assert!(of("a").has_lost(&Sight::of([Resource::Node.all()]), &about("a")));
        assert!(!Sight::whole().has_lost(&of("a"), &about("a")));
    }

    #[test]
    fn a_vm_without_a_namespace_is_never_asked_about() {
        assert_eq!(About::vms([(String::new(), "x".to_owned())]).rights().count(), 0);
        assert_eq!(About::namespaces([String::new(), "a".to_owned()]).rights().count(), 1);
    }
}
