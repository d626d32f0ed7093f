//! Which incidents are asked for, and by what name. Pure.
//!
//! One filter for lists and for watches: who lists and then watches with the same words is told of the same incidents.

use std::sync::Arc;

use kulprit_diagnosis::catalogue;
use kulprit_proto::v1;
use tonic::Status;
use ulid::Ulid;

use super::{check_texts, page, shortened};
use crate::incident::{Incident, Incidents, Member};

/// Most incidents of one answer, and how many where none are asked for.
const INCIDENTS_MAX: u32 = 1_000;
const INCIDENTS_DEFAULT: u32 = 100;
/// An incident may be called by this many of its last characters: a hash of what it is, one in 2^40 is another's.
const NAME_CHARS: usize = 8;
/// Candidates named where a short name means several.
const CANDIDATES_MAX: usize = 5;

/// Which incidents are asked for; empty texts ask for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentFilter {
    include_closed: bool,
    namespace: String,
    node: String,
    cause: String,
}

impl IncidentFilter {
    /// Checks the fields of a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the field.
    pub fn new(include_closed: bool, namespace: String, node: String, cause: String) -> Result<Self, Status> {
        check_texts(&[("namespace", &namespace), ("node", &node), ("cause", &cause)])?;
        if !cause.is_empty() && catalogue::find(&cause).is_none() {
            let cause = shortened(&cause);
            return Err(Status::invalid_argument(format!(
                "cause: `{cause}` is not in the catalogue of causes of this version"
            )));
        }
        Ok(Self { include_closed, namespace, node, cause })
    }

    /// Whether `incident` is one of those. Whom it touched before counts as well.
    #[must_use]
    pub fn wants(&self, incident: &Incident) -> bool {
        let Self { include_closed, namespace, node, cause } = self;
        let touches = |is_meant: &dyn Fn(&Member) -> bool| incident.members.iter().any(is_meant);
        (*include_closed || incident.is_open())
            && (cause.is_empty() || *cause == incident.key.cause)
            && (node.is_empty() || *node == incident.node || touches(&|member| member.whom.node == *node))
            && (namespace.is_empty() || touches(&|member| member.namespace == *namespace))
    }

    /// What a page token is bound to.
    fn texts(&self) -> [&str; 4] {
        let Self { include_closed, namespace, node, cause } = self;
        [if *include_closed { "all" } else { "open" }, namespace, node, cause]
    }
}

/// One page of a list, newest first.
///
/// # Errors
/// INVALID_ARGUMENT names the field.
pub fn list(incidents: &Incidents, request: v1::ListIncidentsRequest) -> Result<v1::ListIncidentsResponse, Status> {
    let v1::ListIncidentsRequest { include_closed, limit, namespace, node, cause, page_token } = request;
    let limit = match limit {
        0 => INCIDENTS_DEFAULT,
        1..=INCIDENTS_MAX => limit,
        _ => return Err(Status::invalid_argument(format!("limit: {limit}, at most {INCIDENTS_MAX} are given"))),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let filter = IncidentFilter::new(include_closed, namespace, node, cause)?;
    let before = match page_token.as_str() {
        "" => None,
        token => {
            let position = page::position(&filter.texts(), token).and_then(|id| Ulid::from_string(&id).ok());
            let wrong = || Status::invalid_argument("page_token: not one that this question was answered with");
            Some(position.ok_or_else(wrong)?)
        }
    };
    let older = incidents.iter().rev().filter(|incident| before.is_none_or(|before| incident.id < before));
    let mut wanted = older.filter(|incident| filter.wants(incident));
    let shown: Vec<&Arc<Incident>> = wanted.by_ref().take(limit).collect();
    let next_page_token = match (shown.last(), wanted.next()) {
        (Some(last), Some(_)) => page::token(&filter.texts(), &last.id.to_string()),
        _ => String::new(),
    };
    let incidents = shown.into_iter().map(|incident| (&**incident).into()).collect();
    Ok(v1::ListIncidentsResponse { incidents, next_page_token })
}

/// The incident that `id` names: a ULID, or the last characters of one.
///
/// # Errors
/// INVALID_ARGUMENT if it is neither; NOT_FOUND if there is none; FAILED_PRECONDITION lists the candidates.
pub fn named<'a>(incidents: &'a Incidents, id: &str) -> Result<&'a Arc<Incident>, Status> {
    let not_there =
        |id: &str| Status::not_found(format!("no incident `{id}`; closed ones are kept for the time of retention"));
    if let Ok(ulid) = Ulid::from_string(id) {
        return incidents.get(ulid).ok_or_else(|| not_there(&ulid.to_string()));
    }
    let end = id.to_ascii_uppercase();
    if end.len() < NAME_CHARS || end.len() >= ulid::ULID_LEN || !end.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Status::invalid_argument(format!("id: `{}` is no ULID", shortened(id))));
    }
    let found: Vec<&Arc<Incident>> =
        incidents.iter().filter(|incident| incident.id.to_string().ends_with(&end)).take(CANDIDATES_MAX).collect();
    match found.as_slice() {
        [] => Err(not_there(&end)),
        [one] => Ok(one),
        several => {
            let ids: Vec<String> = several.iter().map(|incident| incident.id.to_string()).collect();
            Err(Status::failed_precondition(format!("id: `{end}` is the end of several: {}", ids.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::incident::testing::{incident, member};

    fn filter(namespace: &str, node: &str, cause: &str) -> IncidentFilter {
        IncidentFilter::new(false, namespace.to_owned(), node.to_owned(), cause.to_owned()).unwrap()
    }

    #[track_caller]
    fn check(namespace: &str, node: &str, cause: &str, want: bool) {
        let mut shown = incident(1, "LocalDiskStalled", "n1");
        shown.members = vec![member("prod", "db-0", "n2"), member("test", "web-0", "n3")];
        shown.members[1].until_wall_usec = Some(1);
        assert_eq!(filter(namespace, node, cause).wants(&shown), want, "{namespace} {node} {cause}");
    }

    #[test]
    fn an_incident_is_of_the_node_it_sits_on_and_of_those_it_touches_or_touched() {
        check("", "", "", true);
        check("", "n1", "", true);
        check("", "n2", "", true);
        check("", "n3", "", true);
        check("", "n4", "", false);
    }

    #[test]
    fn namespace_and_cause_are_taken_as_they_are_and_all_that_is_given_must_hold() {
        check("prod", "", "", true);
        check("test", "", "", true);
        check("pro", "", "", false);
        check("", "", "LocalDiskStalled", true);
        check("", "", "KubeletDown", false);
        check("prod", "n1", "LocalDiskStalled", true);
        check("prod", "n1", "KubeletDown", false);
    }

    #[test]
    fn closed_ones_are_left_out_unless_asked_for() {
        let mut closed = incident(1, "LocalDiskStalled", "n1");
        closed.closed_wall_usec = Some(1);
        assert!(!filter("", "", "").wants(&closed));
        let all = IncidentFilter::new(true, String::new(), String::new(), String::new()).unwrap();
        assert!(all.wants(&closed));
    }

    #[test]
    fn a_field_that_cannot_be_meant_is_named() {
        let text = |filter: Result<IncidentFilter, Status>| filter.unwrap_err().message().to_owned();
        let refused = |namespace: &str, node: &str, cause: &str| {
            text(IncidentFilter::new(false, namespace.to_owned(), node.to_owned(), cause.to_owned()))
        };
        let long = "x".repeat(2_000);
        assert_eq!(refused(&long, "", ""), "namespace: longer than 1024 bytes");
        assert_eq!(refused("", &long, ""), "node: longer than 1024 bytes");
        assert_eq!(refused("", "", &long), "cause: longer than 1024 bytes");
        assert_eq!(refused("", "", "Gremlins"), "cause: `Gremlins` is not in the catalogue of causes of this version");
    }

    #[test]
    fn pages_join_without_a_gap_also_when_one_opens_in_between() {
        let mut incidents: Incidents = (1..=25).map(|id| incident(id, "LocalDiskStalled", "n1")).collect();
        let (mut seen, mut page_token) = (Vec::new(), String::new());
        for n_page in 1_u128..=3 {
            let request = v1::ListIncidentsRequest { limit: 10, page_token, ..Default::default() };
            let answer = list(&incidents, request).unwrap();
            seen.extend(answer.incidents.into_iter().map(|incident| incident.id));
            page_token = answer.next_page_token;
            assert_eq!(page_token.is_empty(), n_page == 3);
            incidents =
                incidents.iter().map(|one| (**one).clone()).chain([incident(100 + n_page, "X", "n1")]).collect();
        }
        let want: Vec<String> = (1_u128..=25).rev().map(|id| Ulid::from(id).to_string()).collect();
        assert_eq!(seen, want);
    }

    #[test]
    fn a_token_of_another_question_is_refused() {
        let incidents: Incidents = (1..=2).map(|id| incident(id, "LocalDiskStalled", "n1")).collect();
        let first = v1::ListIncidentsRequest { limit: 1, ..Default::default() };
        let page_token = list(&incidents, first.clone()).unwrap().next_page_token;
        let other = v1::ListIncidentsRequest { page_token, node: "n1".to_owned(), ..first };
        let refused = list(&incidents, other).unwrap_err();
        assert_eq!(refused.message(), "page_token: not one that this question was answered with");
    }

    #[test]
    fn an_incident_is_named_by_its_ulid_or_the_end_of_it() {
        let last = |id: u128| Ulid::from(id).to_string();
        let (one, other) = (0x1111_2222_3333_4444_5555, 0x9999_2222_3333_4444_5555);
        let incidents: Incidents =
            [one, other, 7].map(|id| incident(id, "LocalDiskStalled", "n1")).into_iter().collect();
        let ask = |id: &str| named(&incidents, id).map(|incident| incident.id).map_err(|status| status.code());
        assert_eq!(ask(&last(one)), Ok(Ulid::from(one)));
        assert_eq!(ask(&last(7)[18..]), Ok(Ulid::from(7)));
        assert_eq!(ask(&last(one)[10..].to_lowercase()), Ok(Ulid::from(one)));
        assert_eq!(ask(&last(one)[18..]), Err(Code::FailedPrecondition), "the ends of both are the same");
        assert_eq!(ask(&last(8)), Err(Code::NotFound));
        assert_eq!(ask("ZZZZZZZZ"), Err(Code::NotFound));
        for bad in ["", "7", "0000007", "../../../x", "ééééééééé", &"0".repeat(27)] {
            assert_eq!(ask(bad), Err(Code::InvalidArgument), "{bad}");
        }
    }
}
