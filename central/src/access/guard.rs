//! The door in front of a service: who calls is asked before anything of the request is read, and stands in its extensions afterwards.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service as Tower;

use super::{Access, Service};
use crate::connections::Admitted;

/// A service behind the door.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    access: Access,
    service: Service,
}

impl<S> Guarded<S> {
    /// Puts the door in front of `inner`.
    #[must_use]
    pub const fn new(inner: S, access: Access, service: Service) -> Self {
        Self { inner, access, service }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Tower<Request<Body>> for Guarded<S>
where
    S: Tower<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is used, as tower asks for.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (access, service) = (self.access.clone(), self.service);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            match access.admit(service, &head).await {
                Ok(caller) => {
                    let turn = match service {
                        Service::Ingest => None,
                        Service::Query => match access.turn(&caller) {
                            Ok(turn) => Some(turn),
                            Err(refusal) => return Ok(refusal.status().into_http()),
                        },
                    };
                    if let Some(admitted) = head.extensions.get::<Admitted>() {
                        admitted.note();
                    }
                    head.extensions.insert(caller);
                    let answered = inner.call(Request::from_parts(head, body)).await;
                    drop(turn);
                    answered
                }
                Err(refusal) => Ok(refusal.status().into_http()),
            }
        })
    }
}
