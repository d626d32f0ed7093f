//! Name service, routes, registries: what a node is told, and what servers answer.
#![no_main]

use kulprit_host::network::{
    RecordType, dns_question, parse_api_server, parse_default_routes, parse_default_routes_v6, parse_dns_answer,
    parse_hosts, parse_image_registry, parse_netstat_counter, parse_registries_conf, parse_registry_hosts,
    parse_resolv_conf, parse_tls_reply, tls_hello,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    assert!(parse_resolv_conf(&text).servers.len() <= 3);
    parse_hosts(&text, "api.example");
    parse_api_server(&text);
    parse_default_routes(&text);
    parse_default_routes_v6(&text);
    parse_netstat_counter(&text, "TcpExt", "ListenOverflows");
    parse_registry_hosts(&text);
    parse_registries_conf(&text);
    if let Some(registry) = parse_image_registry(&text) {
        assert!(!registry.host.is_empty(), "{text}");
    }
    parse_tls_reply(data);
    tls_hello(&text);
    dns_question(7, &text, RecordType::A);
    let id = data.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    parse_dns_answer(data, id);
});
