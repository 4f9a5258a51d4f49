//! The page that a person sees, as HTML. Pure: everything from outside is escaped here, and nowhere else is HTML made.

use std::fmt::Write;

use crate::details::Details;
use crate::reviews::{Colour, Rating, Reviews};

/// What the page is made of.
#[derive(Debug)]
pub struct Page<'a> {
    /// The person who is signed in.
    pub user: Option<&'a str>,
    /// Facts about the book, or why there are none.
    pub details: Result<Details, String>,
    /// Reviews, or why there are none.
    pub reviews: Result<Reviews, String>,
    /// The pod that made the page.
    pub pod: &'a str,
    /// Its version.
    pub version: &'a str,
}

const STYLE: &str = "\
:root{--ink:#1c2733;--soft:#5b6b7b;--line:#dfe6ec;--paper:#fff;--sea:#0b5c6b;--back:#f3f6f8}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}\
header{background:var(--sea);color:#fff;padding:.9rem 1.5rem;display:flex;gap:1rem;align-items:center;flex-wrap:wrap}\
header b{font-size:1.15rem;margin-right:auto}header form{display:flex;gap:.5rem;align-items:center;margin:0}\
input,button{font:inherit;padding:.35rem .7rem;border-radius:.4rem;border:1px solid var(--line)}\
button{background:#fff;color:var(--sea);cursor:pointer}main{max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{margin:.2rem 0 .4rem;font-size:2rem}.lead{color:var(--soft);max-width:46rem}\
.grid{display:grid;grid-template-columns:1fr 2fr;gap:1.25rem;margin-top:1.5rem}@media(max-width:48rem){.grid{grid-template-columns:1fr}}\
section{background:var(--paper);border:1px solid var(--line);border-radius:.7rem;padding:1.1rem 1.3rem}h2{margin:0 0 .8rem;font-size:1.1rem}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem .9rem;margin:0}dt{color:var(--soft)}dd{margin:0}\
blockquote{margin:0 0 1rem;padding-left:.9rem;border-left:3px solid var(--line)}blockquote p{margin:0}cite{color:var(--soft);font-style:normal}\
.stars{letter-spacing:.12em;font-size:1.2rem}.stars.black{color:#111}.stars.red{color:#c9251d}.none{color:var(--soft)}\
.by{color:var(--soft);font-size:.85rem;border-top:1px solid var(--line);padding-top:.6rem;margin-top:.4rem}\
.tag{background:var(--sea);color:#fff;border-radius:.35rem;padding:.05rem .5rem;font-size:.85rem}\
.wrong{background:#fdf1ef;border-color:#efc8c2}footer{max-width:60rem;margin:0 auto 2rem;padding:0 1rem;color:var(--soft);font-size:.85rem}\
code{overflow-wrap:anywhere}";

/// Makes the page.
pub fn render(page: &Page<'_>) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bookinfo</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\
         <body><header><b>Bookinfo</b>{sign_in}</header><main><h1>The Comedy of Errors</h1>\
         <p class=\"lead\">Two merchants&rsquo; sons, parted as infants by a shipwreck, walk the same port on the same day with \
         servants who are twins as well. Everyone greets the wrong one.</p>\
         <div class=\"grid\">{details}{reviews}</div></main>\
         <footer>Page by productpage {version} on <code>{pod}</code></footer></body></html>",
        sign_in = sign_in(page.user),
        details = match &page.details {
            Ok(details) => details_section(details),
            Err(reason) => wrong("Book details", "The details of this book are not available right now.", reason),
        },
        reviews = match &page.reviews {
            Ok(reviews) => reviews_section(reviews),
            Err(reason) => wrong("Reviews", "Reviews of this book are not available right now.", reason),
        },
        version = escape(page.version),
        pod = escape(page.pod),
    )
}

fn sign_in(user: Option<&str>) -> String {
    match user {
        Some(user) => format!(
            "<form method=\"post\" action=\"/logout\"><span>Signed in as <b>{}</b></span>\
             <button>Sign out</button></form>",
            escape(user)
        ),
        None => {
            "<form method=\"post\" action=\"/login\"><label>End user <input name=\"user\" required maxlength=\"32\" \
                 pattern=\"[A-Za-z0-9._\\-]+\" placeholder=\"jason\" autocomplete=\"off\"></label>\
                 <button>Sign in</button></form>"
                .to_owned()
        }
    }
}

fn details_section(details: &Details) -> String {
    let year = details.year.to_string();
    let pages = details.pages.to_string();
    let rows = [
        ("Author", details.author.as_str()),
        ("Year", &year),
        ("Binding", &details.binding),
        ("Pages", &pages),
        ("Publisher", &details.publisher),
        ("Language", &details.language),
        ("ISBN-10", &details.isbn_10),
        ("ISBN-13", &details.isbn_13),
    ];
    let mut html = String::from("<section id=\"details\"><h2>Book details</h2><dl>");
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = write!(html, "<dt>{name}</dt><dd>{}</dd>", escape(value));
    }
    html + "</dl></section>"
}

fn reviews_section(reviews: &Reviews) -> String {
    let mut html = String::from("<section id=\"reviews\"><h2>Reviews</h2>");
    for review in &reviews.reviews {
        let _ = write!(
            html,
            "<blockquote><p>{}</p><cite>{}</cite> {}</blockquote>",
            escape(&review.text),
            escape(&review.reviewer),
            review.rating.as_ref().map(rating).unwrap_or_default()
        );
    }
    let _ = write!(
        html,
        "<div class=\"by\">Answered by reviews <span class=\"tag\">{}</span> on <code>{}</code></div></section>",
        escape(&reviews.version),
        escape(&reviews.podname)
    );
    html
}

fn rating(rating: &Rating) -> String {
    match rating {
        Rating::Stars { stars: count, color } => {
            let colour = match color {
                Colour::Black => "black",
                Colour::Red => "red",
            };
            format!("<span class=\"stars {colour}\" title=\"{count} of 5\">{}</span>", stars(*count))
        }
        Rating::Missing { error } => format!("<span class=\"none\">{}</span>", escape(error)),
    }
}

/// Five stars, as many of them full as were given.
fn stars(count: u8) -> String {
    let full = usize::from(count.min(5));
    "★".repeat(full) + &"☆".repeat(5 - full)
}

fn wrong(title: &str, sentence: &str, reason: &str) -> String {
    format!(
        "<section class=\"wrong\"><h2>{title}</h2><p>{sentence} Please try again in a moment.</p>\
         <div class=\"by\"><code>{}</code></div></section>",
        escape(reason)
    )
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reviews::Review;

    fn page(rating: Option<Rating>) -> String {
        render(&Page {
            user: Some("jason"),
            details: Err("details did not answer".into()),
            reviews: Ok(Reviews {
                id: 0,
                podname: "reviews-<1>".into(),
                version: "v2".into(),
                reviews: vec![Review { reviewer: "Reviewer1".into(), text: "<script>".into(), rating }],
            }),
            pod: "productpage-1",
            version: "v1",
        })
    }

    #[test]
    fn stars_are_five_and_full_as_given() {
        assert_eq!(stars(0), "☆☆☆☆☆");
        assert_eq!(stars(4), "★★★★☆");
        assert_eq!(stars(9), "★★★★★");
    }

    #[test]
    fn the_colour_is_that_of_the_version() {
        assert!(
            page(Some(Rating::Stars { stars: 4, color: Colour::Red })).contains("stars red\" title=\"4 of 5\">★★★★☆")
        );
        assert!(page(Some(Rating::Stars { stars: 1, color: Colour::Black })).contains("stars black"));
        assert!(!page(None).contains('★'), "v1 shows no stars");
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let html = page(None);
        assert!(html.contains("&lt;script&gt;") && html.contains("reviews-&lt;1&gt;"));
        assert!(!html.contains("<script>"));
    }

    #[test]
    fn a_failed_backend_is_explained_and_the_rest_shown() {
        let html = page(None);
        assert!(html.contains("details of this book are not available") && html.contains("details did not answer"));
        assert!(html.contains("Reviewer1"));
    }
}
