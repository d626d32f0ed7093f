//! Finds what a text names: pod, container, volume, VM, image, node, device, server, and the object it was done to.
//!
//! Fields of a structured line are read from the line itself, names in the message from the text without its wrapping. What
//! is not certain is left out: a wrong name would tie the text to the wrong VM.

use std::sync::OnceLock;

use kulprit_model::{Attributes, attribute};
use regex::bytes::Regex;

use crate::peel::compile;

/// A form in which something is named; group 1 is the name. `needle` stands in every such text.
struct Form {
    key: &'static str,
    needle: &'static str,
    pattern: &'static str,
}

const UID: &str = "[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}";
/// The longest object that is kept, characters.
const MAX_OBJECT: usize = 120;

macro_rules! forms {
    ($($key:ident, $needle:literal, $pattern:literal;)*) => {
        &[$(Form { key: attribute::$key, needle: $needle, pattern: $pattern },)*]
    };
}

/// In the line with its fields and escapes.
const FIELDS: &[Form] = forms! {
    POD, "pod=", r#"\bpods?="\[?"?([\w.-]+/[\w.-]+)"#;
    POD_UID, "podUID=", r#"podUID="?(<uid>)"#;
    CONTAINER, "containerName=", r#"containerName="([\w.-]+)"#;
    IMAGE, "image=", r#"\bimage="([^"\\\s]+)"#;
    VOLUME, "volumeName=", r#"volumeName="([\w.-]+)"#;
    VMI, "\"namespace\":\"", r#""component":"virt-(?:handler|launcher)".*"name":"([\w.-]+)".*"namespace":"[\w.-]+""#;
};

/// In the text.
const NAMES: &[Form] = forms! {
    POD, " in pod ", r"\bin pod ([a-z0-9.-]+)_[a-z0-9-]+\(<uid>\)";
    POD, "pod ", r#"\bpods? "?([a-z0-9-]+/[a-z0-9.-]+)"?"#;
    POD, "pod", r#"\bpods?:? "([a-z0-9.-]+)""#;
    POD, " in pod ", r"\bin pod ([a-z0-9.-]+)";
    POD_UID, "/pods/", r"/pods/(<uid>)";
    POD_UID, "pod", r#"\bpods? ?"?(<uid>)"#;
    POD_UID, "(", r"\((<uid>)\)";
    CONTAINER, "Container\" for \"", r#"Container" for "([\w.-]+)""#;
    CONTAINER, "ontainer ", r#"\bcontainer(?: name)? "?([a-z0-9][a-z0-9-]*[a-z0-9])"? (?:in pod|start failed|failed)"#;
    CONTAINER, "ontainer \"", r#"\bcontainer "([a-z0-9-]+)""#;
    VOLUME, "volume \"", r#"\bfor volume "([\w./~-]+)""#;
    VOLUME, "volumes=[", r"unmounted volumes=\[([\w.-]+)";
    VOLUME, "volume: ", r"volume: ([\w.-]+)";
    VOLUME, "pvc-", r"\b(pvc-[0-9a-f]{4,8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})";
    VOLUME, "csi-vol-", r"\b(csi-vol-[0-9a-f-]{8,36})";
    VOLUME, "ersistentvolumeclaim", r#"persistentvolumeclaims? "([\w.-]+)""#;
    VOLUME, "ataVolume ", r"\bDataVolume ([a-z0-9][\w.-]+)";
    VOLUME, "PVC ", r"\bPVC ([a-z0-9][\w.-]*[-\d.][\w.-]*)";
    VMI, "vm='", r"\(vm='([\w.-]+)'\)";
    VMI, "onnection to '", r"Monitor connection to '([\w.-]+)'";
    VMI, "domain '", r"\bdomain '([a-z0-9-]+_[\w.-]+)'";
    VMI, "for domain ", r"\bfor domain ([a-z0-9-]+_[\w.-]+)";
    VMI, "name '", r"with matching name '([\w.-]+)'";
    VMI, "VMI", r"\bVMI \[?([a-z0-9-]+/[\w.-]+)";
    VMI, "vmi ", r"\bvmi ([a-z0-9-]+/[\w.-]+)";
    VMI, "VirtualMachineInstance ", r"\bVirtualMachineInstance ([a-z0-9-]+/[\w.-]+)";
    IMAGE, "mage", r#"\bimage:? "([^"\s]+)""#;
    IMAGE, "PullImage", r#"PullImage "([^"\s]+)""#;
    IMAGE, "reference", r#"resolve reference "([^"\s]+)""#;
    OTHER_NODE, "ode", r#"(?:attached to|published to|exported to|used (?:by|on)|mounted (?:by|on)|held by|locked by|in use (?:by|on)|to target|destination) (?:the )?(?:node|instance|vm|host) "?([a-z0-9][\w.-]+)"#;
    OTHER_NODE, "migrated to node ", r"migrated to node ([a-z0-9][\w.-]+)";
    DEVICE_NAME, "/dev/", r"/dev/((?:sd[a-z]+|vd[a-z]+|rbd|drbd|dm-|nbd|loop|nvme\d+n)\d*)\b";
    SERVER, "dial tcp ", r"dial tcp \[?([\w.-]+:\d+)";
    SERVER, "server at '", r"server at '([^']+)'";
    SERVER, "to host ", r"to host \[?([\w.-]+:\d+)";
    SERVER, "portal", r"portal:? ?([\w.-]+[,:]\d+)";
    SERVER, "connection to ", r"connection to ([\w.-]+:\d+)";
    SERVER, "://", r"https?://([\w.-]+(?::\d+)?)";
    SERVER, ":/", r"\b((?:\d{1,3}\.){3}\d{1,3}:/[\w./-]*)";
    SERVER, "mount", r"([\w-]+(?:\.[\w-]+)+:/[\w./-]*)";
};

/// The forms; each is compiled when its needle is found for the first time.
#[derive(Debug)]
pub(crate) struct Mentions {
    fields: [OnceLock<Regex>; FIELDS.len()],
    names: [OnceLock<Regex>; NAMES.len()],
    path: Regex,
    quoted: Regex,
}

fn compile_exact(form: &Form) -> Regex {
    regex::bytes::RegexBuilder::new(&form.pattern.replace("<uid>", UID))
        .unicode(false)
        .build()
        .expect("a test compiles every form")
}

impl Mentions {
    pub(crate) fn new() -> Self {
        Self {
            fields: [const { OnceLock::new() }; FIELDS.len()],
            names: [const { OnceLock::new() }; NAMES.len()],
            path: compile(r#"(?:^|[\s'"=(\[])(/[\w./~@:%+-]*[\w~@%+])"#),
            quoted: compile(r#"["']([\w./~@:%+-]{2,120})["']"#),
        }
    }

    /// Adds to `attributes` what `line` (with its wrapping) and `text` (without) name.
    pub(crate) fn add(&self, line: &str, text: &str, attributes: Attributes) -> Attributes {
        let mut attributes = attributes;
        let forms = FIELDS.iter().zip(&self.fields).map(|(form, pattern)| (form, pattern, line));
        let forms = forms.chain(NAMES.iter().zip(&self.names).map(|(form, pattern)| (form, pattern, text)));
        for (form, pattern, text) in forms {
            if attributes.get(form.key).is_some() || !text.contains(form.needle) {
                continue;
            }
            let pattern = pattern.get_or_init(|| compile_exact(form));
            let Some(name) = pattern.captures(text.as_bytes()).and_then(|groups| groups.get(1)) else { continue };
            let name = String::from_utf8_lossy(name.as_bytes());
            attributes = match form.key {
                attribute::POD_UID => attributes.with(form.key, name.replace('_', "-")),
                attribute::VMI => attributes.with(form.key, vmi_name(&name, line)),
                attribute::SERVER => attributes.with(form.key, name.trim_end_matches([':', '.', '/'])),
                _ => attributes.with(form.key, name),
            };
        }
        let last = |pattern: &Regex| {
            let groups = pattern.captures_iter(text.as_bytes()).last()?;
            Some(String::from_utf8_lossy(groups.get(1)?.as_bytes()).into_owned())
        };
        let object = last(&self.path).or_else(|| last(&self.quoted));
        attributes
            .with_some(attribute::OBJECT, object.map(|object| object.chars().take(MAX_OBJECT).collect::<String>()))
    }
}

/// `namespace/name` of a domain's name `namespace_name`, or of the fields of a line of KubeVirt; a namespace holds no `_`.
fn vmi_name(name: &str, line: &str) -> String {
    if name.contains('/') {
        return name.to_owned();
    }
    if let Some((namespace, name)) = name.split_once('_') {
        return format!("{namespace}/{name}");
    }
    let namespace = line.split_once("\"namespace\":\"").and_then(|(_, rest)| rest.split('"').next());
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}
