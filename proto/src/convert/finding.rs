//! Moments, evidence, attributes, states and occurrences.

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Occurrence, State, Status, Subject, catalogue::Kind};

use super::{ConvertError, at_least_one, filled, required};
use crate::v1;

impl From<Moment> for v1::Moment {
    fn from(Moment { wall_usec, boottime_usec }: Moment) -> Self {
        Self { wall_usec, boottime_usec }
    }
}

impl From<v1::Moment> for Moment {
    fn from(v1::Moment { wall_usec, boottime_usec }: v1::Moment) -> Self {
        Self { wall_usec, boottime_usec }
    }
}

impl From<Status> for v1::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Present => Self::Present,
            Status::Absent => Self::Absent,
            Status::Unknown => Self::Unknown,
        }
    }
}

/// The status behind the enum's number; `0` and numbers of newer versions are refused.
fn status(number: i32, path: &str) -> Result<Status, ConvertError> {
    match v1::Status::try_from(number) {
        Ok(v1::Status::Present) => Ok(Status::Present),
        Ok(v1::Status::Absent) => Ok(Status::Absent),
        Ok(v1::Status::Unknown) => Ok(Status::Unknown),
        Ok(v1::Status::Unspecified) => Err(ConvertError::Missing { path: path.to_owned() }),
        Err(_) => Err(ConvertError::invalid(path, format_args!("{number} is no status"))),
    }
}

impl From<Evidence> for v1::Evidence {
    fn from(Evidence { source, at, text }: Evidence) -> Self {
        Self { source, at: Some(at.into()), text }
    }
}

/// Text is cleaned like that of our own evidence: a sender cannot put control characters on somebody's terminal.
impl TryFrom<v1::Evidence> for Evidence {
    type Error = ConvertError;

    fn try_from(v1::Evidence { source, at, text }: v1::Evidence) -> Result<Self, ConvertError> {
        if source.chars().any(char::is_control) {
            return Err(ConvertError::invalid("evidence.source", "holds a control character"));
        }
        Ok(Self::new(&filled(source, "evidence.source")?, required(at, "evidence.at")?.into(), text))
    }
}

/// The list of a finding, with the position in the error's path.
fn evidence(list: Vec<v1::Evidence>) -> Result<Vec<Evidence>, ConvertError> {
    let convert = |(index, one): (usize, v1::Evidence)| {
        Evidence::try_from(one).map_err(|mut error| {
            if let ConvertError::Missing { path } | ConvertError::Invalid { path, .. } = &mut error {
                *path = path.replacen("evidence", &format!("evidence[{index}]"), 1);
            }
            error
        })
    };
    list.into_iter().enumerate().map(convert).collect()
}

fn attributes_to_wire(attributes: &Attributes) -> Vec<v1::Attribute> {
    attributes.iter().map(|(key, value)| v1::Attribute { key: key.to_owned(), value: value.to_owned() }).collect()
}

fn attributes(list: Vec<v1::Attribute>) -> Result<Attributes, ConvertError> {
    let mut attributes = Attributes::new();
    for (index, v1::Attribute { key, value }) in list.into_iter().enumerate() {
        let path = format!("attributes[{index}].key");
        let key = filled(key, &path)?;
        if attributes.get(&key).is_some() {
            return Err(ConvertError::invalid(&path, format_args!("`{key}` is given twice")));
        }
        attributes = attributes.with(&key, value);
    }
    Ok(attributes)
}

/// The code, which must be of `kind`.
fn code(text: &str, kind: Kind) -> Result<FindingCode, ConvertError> {
    let code: FindingCode = text.parse().map_err(|_| ConvertError::UnknownFindingCode {
        path: "code".to_owned(),
        code: text.chars().take(80).collect(),
    })?;
    let is = code.spec().kind;
    if is == kind {
        Ok(code)
    } else {
        Err(ConvertError::invalid("code", format_args!("`{code}` is no {}", kind.as_str())))
    }
}

pub(super) fn subject(text: &str, path: &str) -> Result<Subject, ConvertError> {
    text.parse().map_err(|error| ConvertError::invalid(path, error))
}

impl From<State> for v1::State {
    fn from(state: State) -> Self {
        let State { code, subject, status, since, looked, unknown_because, attributes, evidence } = state;
        Self {
            code: code.as_str().to_owned(),
            subject: subject.to_string(),
            status: v1::Status::from(status).into(),
            since: Some(since.into()),
            looked: Some(looked.into()),
            unknown_because,
            attributes: attributes_to_wire(&attributes),
            evidence: evidence.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::State> for State {
    type Error = ConvertError;

    fn try_from(wire: v1::State) -> Result<Self, ConvertError> {
        state(wire).map_err(|error| error.within("state"))
    }
}

fn state(wire: v1::State) -> Result<State, ConvertError> {
    let v1::State { code, subject, status, since, looked, unknown_because, attributes, evidence } = wire;
    let status = self::status(status, "status")?;
    match (status, &unknown_because) {
        (Status::Unknown, None) => return Err(ConvertError::Missing { path: "unknown_because".to_owned() }),
        (Status::Present | Status::Absent, Some(_)) => {
            return Err(ConvertError::invalid("unknown_because", format_args!("set, and the status is {status}")));
        }
        (Status::Unknown, Some(_)) | (Status::Present | Status::Absent, None) => {}
    }
    Ok(State {
        code: self::code(&code, Kind::State)?,
        subject: self::subject(&subject, "subject")?,
        status,
        since: required(since, "since")?.into(),
        looked: required(looked, "looked")?.into(),
        unknown_because,
        attributes: self::attributes(attributes)?,
        evidence: self::evidence(evidence)?,
    })
}

impl From<Occurrence> for v1::Occurrence {
    fn from(occurrence: Occurrence) -> Self {
        let Occurrence { code, subject, first, last, count, attributes, evidence } = occurrence;
        Self {
            code: code.as_str().to_owned(),
            subject: subject.to_string(),
            first: Some(first.into()),
            last: Some(last.into()),
            count,
            attributes: attributes_to_wire(&attributes),
            evidence: evidence.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Occurrence> for Occurrence {
    type Error = ConvertError;

    fn try_from(wire: v1::Occurrence) -> Result<Self, ConvertError> {
        occurrence(wire).map_err(|error| error.within("occurrence"))
    }
}

fn occurrence(wire: v1::Occurrence) -> Result<Occurrence, ConvertError> {
    let v1::Occurrence { code, subject, first, last, count, attributes, evidence } = wire;
    Ok(Occurrence {
        code: self::code(&code, Kind::Occurrence)?,
        subject: self::subject(&subject, "subject")?,
        first: required(first, "first")?.into(),
        last: required(last, "last")?.into(),
        count: at_least_one(count, "count")?,
        attributes: self::attributes(attributes)?,
        evidence: self::evidence(evidence)?,
    })
}
