//! What the objects of a VM, and of a node, show: findings by what they are read from.

pub(crate) mod image;
pub(crate) mod migration;
pub(crate) mod node;
pub(crate) mod placement;
pub(crate) mod pod;
pub(crate) mod texts;
pub(crate) mod vmi;
pub(crate) mod volume;
