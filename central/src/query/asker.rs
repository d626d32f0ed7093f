//! Who asks, and what he may be shown of what he names. What he may not get is answered as if it were not there, or refused before anybody looks.

use std::collections::BTreeSet;

use kulprit_diagnosis::Snapshot;
use tonic::{Request, Status};

use super::{QueryService, named};
use crate::access::{
    Access, Caller, Refusal, Service, forbidden,
    rights::{About, Key, Resource, Right, Sight},
};

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    access: Access,
    caller: Caller,
}

impl Asker {
    /// Whom the door let in with this request.
    pub(super) fn of<T>(access: &Access, request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("nobody has asked who calls"))?;
        Ok(Self { access: access.clone(), caller })
    }

    /// What of this he may be shown.
    pub(super) async fn sight(&self, about: &About) -> Result<Sight, Status> {
        self.access.sight(&self.caller, about).await
    }

    /// Refuses him if he lacks this right.
    pub(super) async fn require(&self, right: Right) -> Result<(), Status> {
        self.access.require(&self.caller, right).await
    }

    /// What he may be shown of a node that he names: facts of it, and maybe of others.
    pub(super) async fn sight_of_node(&self, node: &str) -> Result<Sight, Status> {
        self.require(Resource::Node.one("", node)).await?;
        self.sight(&About::default()).await
    }

    /// What he may be shown of the VM that he names: of each that could be meant.
    pub(super) async fn sight_of_vm(&self, service: &QueryService, name: &str) -> Result<Sight, Status> {
        if self.is_shown_all() {
            return Ok(Sight::whole());
        }
        if let Some((namespace, own)) = split(name) {
            let sight = self.sight(&About::vms([(namespace.to_owned(), own.to_owned())])).await?;
            // Before anybody looks: whether it is there is nothing that he may know.
            return self.check(sight.shows_vm(namespace, own), Resource::Vm.one(namespace, own)).map(|()| sight);
        }
        let asked = name.to_owned();
        let found = service.decide(move |snapshot, _| Ok(named::candidates(snapshot, &asked))).await?;
        self.sight(&About::vms(found)).await
    }

    /// The same of the migration that he names.
    pub(super) async fn sight_of_migration(&self, service: &QueryService, name: &str) -> Result<Sight, Status> {
        if self.is_shown_all() {
            return Ok(Sight::whole());
        }
        if let Some((namespace, own)) = split(name) {
            let sight = self.sight(&About::migrations([(namespace.to_owned(), own.to_owned())])).await?;
            let right = Resource::Migration.one(namespace, own);
            return self.check(sight.shows_migration(namespace, own), right).map(|()| sight);
        }
        let (asked, live) = (name.to_owned(), service.sources.live.clone());
        let keys = move |snapshot: &mut Snapshot, _: &_| {
            let found = live.cluster().map(|cluster| cluster.migrations(&asked, snapshot.reference_wall_usec));
            let keys = found.unwrap_or_default().into_iter().map(|(name, vm)| (vm.namespace, name));
            Ok(keys.collect::<BTreeSet<Key>>())
        };
        self.sight(&About::migrations(service.decide(keys).await?)).await
    }

    /// Resolves when what he is told has to end.
    pub(super) async fn until_refused(&self) -> Status {
        self.access.until_refused(Service::Query, &self.caller).await.status()
    }

    fn is_shown_all(&self) -> bool {
        !matches!(self.caller, Caller::User(_))
    }

    /// Refuses him what is not shown, for want of that right.
    pub(super) fn check(&self, is_shown: bool, right: Right) -> Result<(), Status> {
        if is_shown {
            return Ok(());
        }
        Err(self.refuse(&forbidden(&self.caller, &right)))
    }

    /// Refuses him.
    pub(super) fn refuse(&self, refusal: &Refusal) -> Status {
        self.access.refuse(Service::Query, refusal);
        refusal.status()
    }
}

/// Namespace and name; `None` for a name alone or a UID.
fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(namespace, own)| !namespace.is_empty() && !own.is_empty())
}
