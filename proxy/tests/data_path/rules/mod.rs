//! What routes do with requests.

use fairlead_proxy_api::v1;

use crate::support::*;

mod matches;

/// A client's sidecar, plain applications behind it: one for each set of the service.
async fn routed(routes: Vec<v1::Route>, answers: &[&'static str]) -> Sidecar {
    let mut sets = Vec::new();
    for answer in answers {
        let app = App::answering(answer).await;
        sets.push(vec![endpoint(app.address, "")]);
    }
    let mut service = service(sets);
    // The last route is the one to the first set.
    service.routes.splice(0..0, routes);
    client_of(&Authority::new(), service)
}
