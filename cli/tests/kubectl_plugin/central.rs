//! A central that has two VMs and knows of no trouble; asked why, it says whom it does not know, and asked for nodes, who asks, but for one who may
//! not get them.

use std::{
    convert::Infallible,
    future::Ready,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use http::{Request, Response};
use kulprit_proto::v1;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body, server::NamedService};
use tonic_prost::ProstCodec;

/// Serves one connection to its end.
pub(crate) async fn serve(connection: DuplexStream) {
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(connection));
    let _ = tonic::transport::Server::builder().add_service(Central).serve_with_incoming(incoming).await;
}

/// The same by TLS, where the client takes it for who it should be.
pub(crate) async fn serve_by_tls(connection: impl AsyncRead + AsyncWrite + Unpin, config: Arc<ServerConfig>) {
    let Ok(mut greeted) = TlsAcceptor::from(config).accept(connection).await else { return };
    let (mut near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(far));
    let _ = tokio::io::copy_bidirectional(&mut greeted, &mut near).await;
}

/// One that listens, by TLS, until the test's process ends.
pub(crate) fn listen(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener can be");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve_by_tls(connection, Arc::clone(&config)));
            }
        });
    });
    address
}

/// What one shows who may not get nodes.
const TENANT: &str = "Bearer tenant";

#[derive(Clone)]
struct Central;

impl NamedService for Central {
    const NAME: &'static str = "kulprit.v1.Query";
}

impl tower::Service<Request<Body>> for Central {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let answer = match request.uri().path() {
                "/kulprit.v1.Query/ListVms" => unary(request, vms).await,
                "/kulprit.v1.Query/ListVerdicts" => unary(request, no_verdicts).await,
                "/kulprit.v1.Query/ExplainVm" => unary(request, unknown).await,
                "/kulprit.v1.Query/ListFindings" => unary(request, findings).await,
                "/kulprit.v1.Query/ListNodes" => match request.headers().get("authorization") {
                    Some(shown) if shown == TENANT => {
                        Status::permission_denied("`tenant` may not get nodes").into_http()
                    }
                    Some(shown) => {
                        Status::not_found(format!("shown `{}`", shown.to_str().expect("a text"))).into_http()
                    }
                    None => Status::unauthenticated("no token").into_http(),
                },
                path => Status::unimplemented(path).into_http(),
            };
            Ok(answer)
        })
    }
}

async fn unary<Q, A>(request: Request<Body>, answer: fn(Q) -> Result<A, Status>) -> Response<Body>
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<Q>| -> Ready<Result<tonic::Response<A>, Status>> {
        std::future::ready(answer(request.into_inner()).map(tonic::Response::new))
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

fn vms(request: v1::ListVmsRequest) -> Result<v1::ListVmsResponse, Status> {
    assert_eq!(request.node, "");
    let vm = |namespace: &str, name: &str| v1::Vm {
        uid: format!("uid-of-{name}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: "n1".to_owned(),
        ..v1::Vm::default()
    };
    Ok(v1::ListVmsResponse { vms: vec![vm("prod", "db-0"), vm("test", "db-1")] })
}

/// One of each VM, of whose names its host knows that of the second, one of its QEMU, and one of the node.
fn findings(_: v1::ListFindingsRequest) -> Result<v1::ListFindingsResponse, Status> {
    let finding = |code: &str, subject: &str, vm_name: &str| {
        let state = v1::State { code: code.to_owned(), subject: subject.to_owned(), ..v1::State::default() };
        let finding = Some(v1::node_finding::Finding::State(state));
        v1::NodeFinding { vm_name: vm_name.to_owned(), finding, ..v1::NodeFinding::default() }
    };
    let findings = vec![
        finding("VmDiskStalled", "vm/uid-of-db-0", ""),
        finding("VmLinkLost", "vm/uid-of-db-1", "test/db-1"),
        finding("QemuStuck", "process/7/1", "test/db-1"),
        finding("KubeletInactive", "unit/kubelet.service", ""),
    ];
    Ok(v1::ListFindingsResponse { findings, next_page_token: String::new() })
}

fn no_verdicts(_: v1::ListVerdictsRequest) -> Result<v1::ListVerdictsResponse, Status> {
    let unseen = vec!["what you may not get in Kubernetes is left out".to_owned()];
    Ok(v1::ListVerdictsResponse { verdicts: Vec::new(), unseen })
}

fn unknown(request: v1::ExplainVmRequest) -> Result<v1::ExplainVmResponse, Status> {
    Err(Status::not_found(format!("no VM `{}`", request.vm)))
}
