//! What is shown to central with each question, so that it knows who asks.

use kulprit_proto::v1::query_client::QueryClient;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// Asks central, and shows it a token with each question.
pub(crate) type Central = QueryClient<InterceptedService<Channel, Bearer>>;

/// A token, or none; it is not printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// The value of a header `Authorization`; `None` if it is no bearer token.
    pub(crate) fn of_header(value: &str) -> Option<Self> {
        let token = value.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty())?;
        Self::new(token)
    }

    /// A token; `None` if a header cannot hold it.
    pub(crate) fn new(token: &str) -> Option<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bearer: Option<Bearer>, want: Option<&str>) {
        let shown = bearer.map(|mut bearer| bearer.call(Request::new(())).expect("it refuses nothing"));
        let shown = shown.and_then(|request| Some(request.metadata().get("authorization")?.to_str().ok()?.to_owned()));
        assert_eq!(shown.as_deref(), want);
    }

    #[test]
    fn a_bearer_token_is_shown_and_nothing_else() {
        check(Bearer::of_header("Bearer abc"), Some("Bearer abc"));
        check(Bearer::of_header("Basic dTpw"), None);
        check(Bearer::of_header("Bearer "), None);
        check(Bearer::new("a\nb"), None);
        check(Some(Bearer::default()), None);
        let secret = format!("{:?}", Bearer::new("hidden"));
        assert!(!secret.contains("hidden"), "{secret}");
    }
}
