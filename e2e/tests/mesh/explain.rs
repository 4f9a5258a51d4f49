//! What the operator says that policy would do is what calls really get.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Fairlead, Mesh, TempNamespace};

use crate::{call, call_ok, client, mesh};

/// Who calls, in which words of the command, and from where.
struct Caller<'a> {
    words: Vec<String>,
    namespace: &'a TempNamespace,
}

#[tokio::test]
async fn what_is_explained_is_what_calls_get() -> Result<()> {
    let mesh = mesh().await?;
    let fairlead = Fairlead::build().await?;
    let ns = TempNamespace::injected(&mesh, "explain").await?;
    let friend = TempNamespace::injected(&mesh, "explain-friend").await?;
    let outside = TempNamespace::plain(&mesh, "explain-outside").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    for namespace in [&ns, &friend, &outside] {
        mesh.apply(&client().yaml(namespace.name())).await?;
    }
    for (namespace, name) in [(&ns, "echo"), (&ns, "client"), (&friend, "client"), (&outside, "client")] {
        mesh.rolled_out(namespace.name(), name).await?;
    }
    let account = |namespace: &TempNamespace| vec!["--from".to_owned(), format!("{}/default", namespace.name())];
    let callers = [
        Caller { words: account(&ns), namespace: &ns },
        Caller { words: account(&friend), namespace: &friend },
        Caller { words: vec!["--from-plain".to_owned()], namespace: &outside },
    ];
    for caller in &callers {
        call_ok(&mesh, caller.namespace.name(), &[&format!("http://echo.{}:9080/", ns.name())]).await?;
    }

    let rules = format!(
        "  rules:\n  - {{name: friends, action: Allow, from: [{{namespaces: [{}]}}], to: [{{methods: [GET], paths: [/status/*]}}]}}\n  \
         - {{name: not-that, action: Deny, to: [{{paths: [/status/201]}}]}}\n  \
         - {{name: plain, action: Allow, from: [{{unauthenticated: true}}], to: [{{paths: [/open]}}]}}\n",
        friend.name()
    );
    let mut seen = Vec::new();
    for mode in ["Permissive", "Strict"] {
        mesh.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: readers, namespace: {}}}\nspec:\n  \
             selector: {{matchLabels: {{app: echo}}}}\n  mtls: {{mode: {mode}}}\n{rules}",
            ns.name()
        ))
        .await?;
        mesh.programmed("PeerAuth", ns.name(), "readers").await?;
        for caller in &callers {
            for path in ["/status/200", "/status/201", "//status/201", "/open", "/closed"] {
                seen.push(agrees(&mesh, &fairlead, caller, &ns, Some(path)).await.with_context(|| mode.to_owned())?);
            }
            seen.push(agrees(&mesh, &fairlead, caller, &ns, None).await.with_context(|| mode.to_owned())?);
        }
    }
    let allowed = seen.iter().filter(|allowed| **allowed).count();
    // Of the friend the one path, under either mode; of the plain caller the other, until Strict.
    ensure!(allowed == 3, "{allowed} of {} were let in, which shows nothing of the others", seen.len());
    Ok(())
}

#[tokio::test]
async fn a_question_without_an_answer_is_no_verdict() -> Result<()> {
    let mesh = mesh().await?;
    let fairlead = Fairlead::build().await?;
    let ns = TempNamespace::injected(&mesh, "explain-nobody").await?;
    let to = format!("{}/nobody", ns.name());
    let (output, code) = fairlead.run(&["authz", "explain", "--from-plain", "--to", &to, "--get", "/"]).await?;
    ensure!(code == Some(2) && output.stderr.contains("there is no Service"), "{code:?}: {output:?}");
    Ok(())
}

/// Asks both ways; returns whether it is let in. `path`: of a GET to the web port; `None`: bytes to the port that is no HTTP.
async fn agrees(
    mesh: &Mesh,
    fairlead: &Fairlead,
    caller: &Caller<'_>,
    ns: &TempNamespace,
    path: Option<&str>,
) -> Result<bool> {
    let port = if path.is_some() { 9080 } else { 9082 };
    let to = format!("{}/echo:{port}", ns.name());
    let mut words = vec!["authz", "explain", "--to", &to];
    words.extend(caller.words.iter().map(String::as_str));
    words.extend(path.map(|path| ["--get", path]).into_iter().flatten());
    let (output, code) = fairlead.run(&words).await?;
    let explained = match code {
        Some(0) => true,
        Some(1) => false,
        _ => anyhow::bail!("{words:?} has no answer: {}", output.stderr),
    };
    let address = format!("echo.{}:{port}", ns.name());
    let really = match path {
        Some(path) => call(mesh, caller.namespace.name(), &[&format!("http://{address}{path}")]).await?,
        None => call(mesh, caller.namespace.name(), &["tcp", &address]).await?,
    };
    ensure!(
        explained == really.success,
        "{words:?} says\n{}but the call got\n{}{}",
        output.stdout,
        really.stdout,
        really.stderr
    );
    Ok(explained)
}
