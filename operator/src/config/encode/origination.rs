//! TLS towards endpoints outside the mesh, in the words of the wire contract.

use fairlead_proxy_api::v1;

use crate::model::Origination;

/// What the sets of one Service refer to, each once: public authorities take a hundred times what endpoints do.
#[derive(Default)]
pub(super) struct Table<'a>(Vec<&'a Origination>);

impl<'a> Table<'a> {
    /// Where it is.
    pub(super) fn index(&mut self, origination: &'a Origination) -> u32 {
        let known = self.0.iter().position(|known| *known == origination);
        known.unwrap_or_else(|| {
            self.0.push(origination);
            self.0.len() - 1
        }) as u32
    }

    pub(super) fn into_wire(self) -> Vec<v1::TlsOrigination> {
        self.0.into_iter().map(to_wire).collect()
    }
}

fn to_wire(origination: &Origination) -> v1::TlsOrigination {
    let (roots, unresolved) = match &origination.roots {
        Ok(roots) => (roots.to_vec(), String::new()),
        Err(why) => (Vec::new(), why.clone()),
    };
    v1::TlsOrigination { server_name: origination.server_name.clone(), roots, unresolved }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origination(name: &str, roots: Result<&[u8], &str>) -> Origination {
        let roots = roots.map(|root| [root.to_vec()].into()).map_err(str::to_owned);
        Origination { server_name: name.into(), roots }
    }

    #[test]
    fn what_several_sets_share_is_sent_once() {
        let [a, b, a_again] = ["a.example", "b.example", "a.example"].map(|name| origination(name, Ok(b"root")));
        let mut table = Table::default();
        let indices = [&a, &b, &a_again].map(|origination| table.index(origination));
        assert_eq!(indices, [0, 1, 0]);
        let names: Vec<_> = table.into_wire().into_iter().map(|tls| (tls.server_name, tls.roots)).collect();
        assert_eq!(names, [("a.example".into(), vec![b"root".to_vec()]), ("b.example".into(), vec![b"root".to_vec()])]);
    }

    #[test]
    fn without_authorities_there_is_a_reason_and_still_an_origination() {
        let nobody = origination("a.example", Err("ConfigMap shop/ca does not exist"));
        let mut table = Table::default();
        assert_eq!(table.index(&nobody), 0);
        let wire = table.into_wire().remove(0);
        assert_eq!((wire.roots.len(), wire.unresolved.as_str()), (0, "ConfigMap shop/ca does not exist"));
    }
}
