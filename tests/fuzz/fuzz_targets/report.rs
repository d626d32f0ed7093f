//! Messages of agents as central reads them: decoded, converted, and what converts is the same after the way back.
#![no_main]

use kulprit_model::Record;
use kulprit_proto::v1::{self, agent_message::Message as Kind};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = v1::AgentMessage::decode(data)
        && let Some(Kind::Record(record)) = message.message
    {
        convert(record);
    }
    if let Ok(record) = v1::Record::decode(data) {
        convert(record);
    }
    let _ = v1::CentralMessage::decode(data);
});

fn convert(record: v1::Record) {
    match Record::try_from(record) {
        Ok(record) => assert_eq!(Record::try_from(v1::Record::from(record.clone())), Ok(record)),
        Err(error) => assert!(!error.path().is_empty(), "{error}"),
    }
}
