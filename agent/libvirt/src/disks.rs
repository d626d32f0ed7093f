//! The disks of a domain, from its XML.
//!
//! Source: libvirt's `formatdomain` ("Hard drives, floppy disks, CDROMs"). Only what names a disk to a person or in an
//! I/O error event is kept; cookies, credentials and everything else of the definition are not read, and a password or
//! query inside a network disk's name is cut out.

use kulprit_proto::worker::Disk;
use roxmltree::{Document, Node, ParsingOptions};

use crate::text::{MAX_NAME, clean};

/// Most XML nodes read: a domain with 1,000 disks has about 30,000.
const MAX_NODES: u32 = 200_000;
/// Most disks handed on.
const MAX_DISKS: usize = 1_000;

/// The XML is not a domain's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DisksError {
    #[error("the domain's XML does not parse")]
    Xml(#[source] roxmltree::Error),
    #[error("the domain's XML has no `domain` element with `devices`")]
    NoDevices,
}

/// The disks in the order of the definition. One without a target is skipped: nothing could refer to it.
///
/// # Errors
/// The text is not XML, or not a domain.
pub(crate) fn parse_disks(xml: &str) -> Result<Vec<Disk>, DisksError> {
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).map_err(DisksError::Xml)?;
    let root = document.root_element();
    let devices = child(root, "devices").filter(|_| root.has_tag_name("domain")).ok_or(DisksError::NoDevices)?;
    Ok(devices.children().filter(|node| node.has_tag_name("disk")).filter_map(parse_disk).take(MAX_DISKS).collect())
}

fn parse_disk(node: Node<'_, '_>) -> Option<Disk> {
    let source_type = node.attribute("type").unwrap_or("file");
    Some(Disk {
        target: short(child(node, "target")?.attribute("dev")?),
        // libvirt leaves it out for an ordinary disk.
        device: short(node.attribute("device").unwrap_or("disk")),
        source_type: short(source_type),
        source: child(node, "source").and_then(|source| parse_source(source, source_type)),
        alias: child(node, "alias").and_then(|alias| alias.attribute("name")).map(short),
        error_policy: child(node, "driver").and_then(|driver| driver.attribute("error_policy")).map(short),
    })
}

/// Where the data is: the attribute that says it depends on the type.
fn parse_source(source: Node<'_, '_>, source_type: &str) -> Option<String> {
    let text = match source_type {
        "file" => source.attribute("file")?.to_owned(),
        "block" | "vhostvdpa" => source.attribute("dev")?.to_owned(),
        "dir" => source.attribute("dir")?.to_owned(),
        "volume" => format!("{}/{}", source.attribute("pool")?, source.attribute("volume")?),
        "network" => without_secrets(&format!(
            "{}:{}",
            source.attribute("protocol")?,
            source.attribute("name").unwrap_or_default()
        )),
        "vhostuser" => source.attribute("path")?.to_owned(),
        "nvme" => format!("nvme namespace {}", source.attribute("namespace")?),
        _ => return None,
    };
    Some(short(&text))
}

/// A network disk's name without a query, and without a password before the host.
fn without_secrets(name: &str) -> String {
    let name = name.split_once('?').map_or(name, |(name, _)| name);
    match name.rsplit_once('@') {
        // `user:password@`; a snapshot of RBD, `pool/image@snap`, has a `/` before the `@`.
        Some((before, after)) if !before.contains('/') || before.contains("//") => {
            let protocol = before.split_once(':').map_or("", |(protocol, _)| protocol);
            format!("{protocol}:<redacted>@{after}")
        }
        _ => name.to_owned(),
    }
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn short(text: &str) -> String {
    clean(text.as_bytes(), MAX_NAME)
}

#[cfg(test)]
mod tests;
