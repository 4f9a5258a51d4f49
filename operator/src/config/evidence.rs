//! What releases ask of the registry.

use super::registry::Registry;
use crate::canary::{Acknowledgements, Counts, Evidence, Fresh, Programmed};
use crate::model::{ObjectName, Source, SourceKind, SourceRef};

impl Evidence for Registry {
    fn counts(&self, group: &str) -> Option<Counts> {
        Self::counts(self, group)
    }

    fn take_over(&self) {
        Self::take_over(self);
    }

    fn fresh(&self, group: &str) -> Fresh {
        Self::fresh(self, group)
    }
}

impl Programmed for Registry {
    fn acknowledgements(&self, namespace: &str, canary: &str, generation: i64) -> Acknowledgements {
        let programmed = self.programmed(&SourceRef {
            source: Source { kind: SourceKind::Canary, object: ObjectName::new(namespace, canary) },
            generation,
        });
        let refused = programmed.refused.first();
        Acknowledgements {
            proxies: programmed.proxies,
            acknowledged: programmed.acknowledged,
            refused: refused.map(|(pod, why)| format!("{pod} refused: {why}")),
        }
    }
}
