//! Records and their stamps.

use kulprit_model::{Body, Record, Stamp};

use super::{ConvertError, at_least_one, filled, finding::subject, required};
use crate::v1;

impl From<Record> for v1::Record {
    fn from(Record { stamp, body }: Record) -> Self {
        let Stamp { boot_id, epoch, seq, at } = stamp;
        Self { boot_id, epoch, seq, at: Some(at.into()), body: Some(body.into()) }
    }
}

impl From<Body> for v1::record::Body {
    fn from(body: Body) -> Self {
        match body {
            Body::State(state) => Self::State(state.into()),
            Body::Occurrence(occurrence) => Self::Occurrence(occurrence.into()),
            Body::Domain(domain) => Self::Domain(domain.into()),
            Body::Qemu(qemu) => Self::Qemu(qemu.into()),
            Body::SubjectGone { subject, at } => {
                Self::SubjectGone(v1::SubjectGone { subject: subject.to_string(), at: Some(at.into()) })
            }
        }
    }
}

impl TryFrom<v1::Record> for Record {
    type Error = ConvertError;

    fn try_from(wire: v1::Record) -> Result<Self, ConvertError> {
        record(wire).map_err(|error| error.within("record"))
    }
}

fn record(wire: v1::Record) -> Result<Record, ConvertError> {
    let v1::Record { boot_id, epoch, seq, at, body } = wire;
    let stamp = Stamp {
        boot_id: filled(boot_id, "boot_id")?,
        epoch: at_least_one(epoch, "epoch")?,
        seq: at_least_one(seq, "seq")?,
        at: required(at, "at")?.into(),
    };
    let body = body.ok_or_else(|| ConvertError::UnknownBody { path: "body".to_owned() })?;
    Ok(Record { stamp, body: body.try_into()? })
}

impl TryFrom<v1::record::Body> for Body {
    type Error = ConvertError;

    fn try_from(wire: v1::record::Body) -> Result<Self, ConvertError> {
        Ok(match wire {
            v1::record::Body::State(state) => Self::State(state.try_into()?),
            v1::record::Body::Occurrence(occurrence) => Self::Occurrence(occurrence.try_into()?),
            v1::record::Body::Domain(domain) => Self::Domain(domain.try_into()?),
            v1::record::Body::Qemu(qemu) => Self::Qemu(qemu.try_into()?),
            v1::record::Body::SubjectGone(v1::SubjectGone { subject: text, at }) => Self::SubjectGone {
                subject: subject(&text, "subject_gone.subject")?,
                at: required(at, "subject_gone.at")?.into(),
            },
        })
    }
}
