use super::*;

const A: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
const B: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";

async fn sticky(weights: [u32; 2]) -> Sidecar {
    let route = v1::Route {
        backends: vec![backend(weights[0], 0), backend(weights[1], 1)],
        stickiness: Some(v1::Stickiness {
            cookie: "fl-sticky".into(),
            max_age_s: Some(60),
            values: vec!["aaaa".into(), "bbbb".into()],
        }),
        ..v1::Route::default()
    };
    routed(whole(route), &[A, B]).await
}

async fn ask(client: &Sidecar, cookie: &str) -> String {
    get(client.outbound, "/", &format!("Cookie: theme=dark; fl-sticky={cookie}\r\n")).await
}

#[tokio::test]
async fn a_user_stays_where_it_came_first() {
    let client = sticky([1, 1]).await;
    let mut seen = Vec::new();
    for _ in 0..64 {
        let first = get(client.outbound, "/", "").await;
        let cookie = value(&first, "set-cookie").expect("a user without a cookie is given one");
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"), "{cookie}");
        let given = cookie.strip_prefix("fl-sticky=").unwrap().split(';').next().unwrap();
        let again = ask(&client, given).await;
        assert_eq!(again.chars().last(), first.chars().last());
        assert_eq!(value(&again, "set-cookie"), None, "it has it already");
        seen.push(given.to_owned());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["aaaa", "bbbb"], "both backends get new users");
}

#[tokio::test]
async fn a_value_that_nobody_gave_out_is_ignored_and_replaced() {
    let client = sticky([1, 0]).await;
    for made_up in ["cccc", "", "test/server:9080/set-1", "bbbb"] {
        let answer = ask(&client, made_up).await;
        assert!(answer.ends_with('a'), "{made_up}: {answer}");
        assert!(value(&answer, "set-cookie").is_some_and(|cookie| cookie.starts_with("fl-sticky=aaaa;")), "{answer}");
    }
}
