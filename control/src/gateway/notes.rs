//! What the API server's users are told in Kubernetes Events: objects of theirs that cannot be applied.
//!
//! All of it is said anew after every attempt to publish; whoever makes the Events finds what is new. So an Event never tells
//! what is no longer so, and nothing here remembers anything.

use std::collections::BTreeMap;

use podgate_config::model::ObjectName;

use super::Gateway;
use crate::source::kubernetes::Troubles;
use crate::source::kubernetes::events::{MOST_NOTES, Note, Reason};
use crate::store::{Key, Store};

impl Gateway {
    /// Says what cannot be applied now, if that is wanted.
    pub(super) fn tell_events(&self) {
        let Some(api) = self.api.as_ref().filter(|api| self.api_synced && api.tells_events()) else { return };
        let known = Known {
            troubles: &self.publisher.troubles,
            unpublished: self.publisher.unpublished(),
            error: self.publisher.error(),
            closed: &self.closed,
            store: self.publisher.store(),
        };
        api.tell(known.notes().take(MOST_NOTES).collect());
    }
}

/// What there is to know about what cannot be applied.
struct Known<'a> {
    troubles: &'a Troubles,
    /// See [`super::publish::Publisher::unpublished`].
    unpublished: &'a BTreeMap<ObjectName, Option<u64>>,
    /// Why the last attempt to publish failed.
    error: Option<String>,
    /// Pods whose ports are closed, and why.
    closed: &'a BTreeMap<ObjectName, String>,
    store: &'a Store,
}

impl Known<'_> {
    fn notes(&self) -> impl Iterator<Item = Note> {
        self.not_understood().chain(self.not_in_force()).chain(self.closed())
    }

    fn not_understood(&self) -> impl Iterator<Item = Note> {
        self.troubles.iter().filter_map(|(key, trouble)| {
            let message = trouble.describe()?;
            Some(Note {
                key: key.clone(),
                uid: Some(trouble.uid.clone()),
                reason: Reason::NotUnderstood,
                message,
            })
        })
    }

    fn not_in_force(&self) -> impl Iterator<Item = Note> {
        self.error.iter().flat_map(move |error| {
            self.unpublished.iter().filter_map(move |(name, before)| {
                let key = Key::Policy(name.clone());
                if !self.store.is_of_api(&key) {
                    return None;
                }
                let instead = match before {
                    Some(_) => "what it said before stays in force",
                    None => "it is not in force, what was before it is",
                };
                Some(Note {
                    key,
                    uid: None,
                    reason: Reason::NotInForce,
                    message: format!("{error}; {instead}"),
                })
            })
        })
    }

    fn closed(&self) -> impl Iterator<Item = Note> {
        self.closed.iter().filter_map(|(name, why)| {
            let key = Key::Pod(name.clone());
            let pod = self.store.pod(name).filter(|pod| pod.is_subject() && self.store.is_of_api(&key))?;
            let uid = pod.uid.as_ref().map(|uid| uid.as_str().into());
            Some(Note {
                key,
                uid,
                reason: Reason::PortClosed,
                message: format!("{why}; its port takes and sends nothing"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podgate_config::manifest::server::{self, Served, ServerKind};

    use super::*;
    use crate::source::kubernetes::{Said, Trouble};

    /// Takes over what an API server says.
    fn serve(store: &mut Store, troubles: &mut Troubles, kind: ServerKind, object: &str) {
        let page = format!(r#"{{"metadata": {{"resourceVersion": "1"}}, "items": [{object}]}}"#);
        let Served { namespace, name, uid, value, instead, findings, .. } =
            server::page(kind, page.as_bytes()).unwrap().objects.remove(0);
        let key = Key::of_server(kind, &namespace, &name).unwrap();
        if !findings.is_empty() {
            troubles.insert(key.clone(), Arc::new(Trouble { uid: uid.into(), instead, findings }));
        }
        store.take_api(vec![(key, value.map_or(Said::NotUnderstood, |value| Said::Is(Arc::new(value))))]);
    }

    #[test]
    fn what_why_and_what_instead() {
        let (mut store, mut troubles) = (Store::default(), Troubles::new());
        serve(&mut store, &mut troubles, ServerKind::Namespace, r#"{"metadata": {"name": "shop"}}"#);
        let metadata = |name: &str| {
            format!(r#""metadata": {{"name": "{name}", "namespace": "shop", "uid": "{name}-1"}}"#)
        };
        for name in ["web", "job"] {
            let phase = if name == "job" { "Succeeded" } else { "Running" };
            let pod =
                format!(r#"{{{}, "status": {{"phase": "{phase}", "podIP": "10.0.0.1"}}}}"#, metadata(name));
            serve(&mut store, &mut troubles, ServerKind::Pod, &pod);
        }
        for (name, spec) in
            [("good", r#"{"podSelector": {}}"#), ("new", "{}"), ("odd", r#"{"ingress": [7]}"#)]
        {
            let policy = format!(r#"{{{}, "spec": {spec}}}"#, metadata(name));
            serve(&mut store, &mut troubles, ServerKind::NetworkPolicy, &policy);
        }
        let name = |name: &str| ObjectName::parse("shop", name).unwrap();
        let known = Known {
            troubles: &troubles,
            unpublished: &[(name("good"), Some(3)), (name("new"), None), (name("deleted"), Some(1))].into(),
            error: Some("too many rows".to_owned()),
            closed: &[
                (name("web"), "address 10.0.0.1 is disputed".to_owned()),
                (name("job"), "is finished".to_owned()),
                (name("unknown"), "is nobody".to_owned()),
            ]
            .into(),
            store: &store,
        };
        let told: Vec<(String, Option<String>, Reason, String)> = known
            .notes()
            .map(|note| {
                (note.key.to_string(), note.uid.map(|uid| uid.to_string()), note.reason, note.message)
            })
            .collect();
        let line = |key: &str, uid: Option<&str>, reason, message: &str| {
            (key.to_owned(), uid.map(ToOwned::to_owned), reason, message.to_owned())
        };
        let expected = [
            line(
                "NetworkPolicy shop/odd",
                Some("odd-1"),
                Reason::NotUnderstood,
                "spec.ingress[0]: is the number 7, expected an object; rules that are not understood allow nothing, the rest of it is \
                 in force",
            ),
            line(
                "NetworkPolicy shop/good",
                None,
                Reason::NotInForce,
                "too many rows; what it said before stays in force",
            ),
            line(
                "NetworkPolicy shop/new",
                None,
                Reason::NotInForce,
                "too many rows; it is not in force, what was before it is",
            ),
            line(
                "Pod shop/web",
                Some("web-1"),
                Reason::PortClosed,
                "address 10.0.0.1 is disputed; its port takes and sends nothing",
            ),
        ];
        assert_eq!(told, expected);
        // Without a failure what is not published yet is on its way.
        assert_eq!(Known { error: None, ..known }.notes().count(), 2);
    }
}
