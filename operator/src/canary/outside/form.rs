//! The forms in which people and programs are told.

use fairlead_crds::NotifyFormat;
use serde_json::{Value, json};

use super::about::Told;

/// The body of a notification.
pub(super) fn body(format: NotifyFormat, told: &Told) -> serde_json::Result<Vec<u8>> {
    match format {
        NotifyFormat::Json => serde_json::to_vec(told),
        NotifyFormat::Slack => serde_json::to_vec(&slack(told)),
        NotifyFormat::Teams => serde_json::to_vec(&teams(told)),
    }
}

fn title(told: &Told) -> String {
    format!("{}: Canary {}/{}, revision {}", told.event, told.namespace, told.canary, told.revision)
}

fn slack(told: &Told) -> Value {
    json!({"text": format!("*{}*\n{}", escaped(&title(told)), escaped(&told.message))})
}

/// What Slack would otherwise take for a link, a person or everyone in the channel.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An adaptive card. Blocks of rich text show what is in them as it is; the plain ones take it for Markdown, with links.
fn teams(told: &Told) -> Value {
    let line = |run: Value| json!({"type": "RichTextBlock", "inlines": [run]});
    let colour = if told.warning { "Attention" } else { "Default" };
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [
                    line(json!({"type": "TextRun", "text": title(told), "weight": "Bolder", "color": colour})),
                    line(json!({"type": "TextRun", "text": told.message})),
                ],
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::canary::outside::about::ApiVersion;

    fn told() -> Told {
        Told {
            api_version: ApiVersion::default(),
            namespace: "shop".into(),
            canary: "reviews".into(),
            workload: "reviews".into(),
            revision: "5d8f".into(),
            event: "RollingBack".into(),
            message: "5 < 6 & <!channel> says \"no\" to [this](http://elsewhere)".into(),
            warning: true,
            at: Time(Timestamp::from_second(1_800_000_000).unwrap()),
        }
    }

    fn parsed(format: NotifyFormat) -> Value {
        serde_json::from_slice(&body(format, &told()).unwrap()).unwrap()
    }

    #[test]
    fn programs_get_fields() {
        let expected = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "CanaryNotification", "namespace": "shop", "canary": "reviews", "workload": "reviews",
            "revision": "5d8f", "event": "RollingBack", "message": told().message, "warning": true, "at": "2027-01-15T08:00:00Z",
        });
        assert_eq!(parsed(NotifyFormat::Json), expected);
    }

    #[test]
    fn nothing_in_a_message_is_markup() {
        let expected = "*RollingBack: Canary shop/reviews, revision 5d8f*\n\
                        5 &lt; 6 &amp; &lt;!channel&gt; says \"no\" to [this](http://elsewhere)";
        assert_eq!(parsed(NotifyFormat::Slack), json!({"text": expected}));
        let card = parsed(NotifyFormat::Teams);
        assert_eq!(card["type"], "message");
        let attachment = &card["attachments"][0];
        assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
        let body = attachment["content"]["body"].as_array().unwrap();
        assert!(body.iter().all(|block| block["type"] == "RichTextBlock"));
        assert_eq!(body[0]["inlines"][0]["text"], "RollingBack: Canary shop/reviews, revision 5d8f");
        assert_eq!(body[0]["inlines"][0]["color"], "Attention");
        assert_eq!(body[1]["inlines"][0]["text"], told().message);
    }
}
