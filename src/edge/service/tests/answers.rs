//! What callers read, byte for byte.

use super::*;

const GOOD: &str =
    r#"{"event":"a","properties":{"token":"tok","time":1740000000,"distinct_id":"u","$insert_id":"i-1"}}"#;
const WRONG_TOKEN: &str = r#"{"event":"a","properties":{"token":"nope"}}"#;
const STRICT_OK: &str = r#"{"code":200,"num_records_imported":1,"status":"OK"}"#;

#[tokio::test]
async fn plain_and_verbose_answers() {
    let edge = Edge::new(CONFIG);
    let mixed = format!("[{WRONG_TOKEN},{GOOD}]");
    let cases: &[(&str, &str, &str)] = &[
        ("/track", GOOD, "1"),
        ("/track", WRONG_TOKEN, "0"),
        ("/track", &mixed, "1"),
        ("/track?verbose=1", GOOD, r#"{"error":null,"status":1}"#),
        ("/track?verbose=1", WRONG_TOKEN, r#"{"error":"token, not a project token of this relay","status":0}"#),
        ("/track?verbose=1", &mixed, r#"{"error":"token, not a project token of this relay","status":1}"#),
        ("/track?verbose=1", "[]", r#"{"error":"data, missing or empty","status":0}"#),
        ("/track?verbose=1", "", r#"{"error":"data, missing or empty","status":0}"#),
        ("/track?verbose=1", "data=%%%", r#"{"error":"data, neither JSON nor base64","status":0}"#),
        ("/track?verbose=1", "[{\"event\":", r#"{"error":"data, not valid JSON","status":0}"#),
        ("/track?verbose=1", "[{}]", r#"{"error":"event, missing","status":0}"#),
        ("/track?verbose=1", "[1]", r#"{"error":"data, missing or empty","status":0}"#),
        (
            "/track?verbose=1",
            r#"{"event":"$identify","properties":{"token":"tok","$anon_distinct_id":"x"}}"#,
            r#"{"error":"distinct_id, missing or empty","status":0}"#,
        ),
        (
            "/engage?verbose=2",
            r#"[{"$token":"tok","$set":{"a":1}}]"#,
            r#"{"error":"$distinct_id, missing or empty","status":0}"#,
        ),
        ("/engage?verbose=1", r#"[{"$set":{"a":1}}]"#, r#"{"error":"$token, missing or empty","status":0}"#),
        (
            "/engage?verbose=1",
            r#"[{"$token":"tok","$distinct_id":"u","$set":[1]}]"#,
            r#"{"error":"$set, must be an object","status":0}"#,
        ),
        (
            "/groups?verbose=1",
            r#"[{"$token":"tok","$group_key":"company","$set":{"a":1}}]"#,
            r#"{"error":"$group_id, missing or empty","status":0}"#,
        ),
        ("/groups?ip=0", r#"[{"$token":"tok","$group_key":"company","$group_id":"x","$set":{"a":1}}]"#, "1"),
        (r#"/track?callback=mixpanel._jsc["a1"]"#, GOOD, r#"mixpanel._jsc["a1"](1);"#),
        ("/track?callback=f", WRONG_TOKEN, "f(0);"),
        ("/track?callback=alert(1)", GOOD, "1"),
    ];
    for (uri, body, expected) in cases {
        let uri = uri.replace('"', "%22");
        assert_eq!(edge.post(&uri, &[], (*body).to_owned()).await, (200, (*expected).to_owned()), "{uri} {body}");
    }
}

#[tokio::test]
async fn a_pixel_is_a_png_and_plain_is_text() {
    let edge = Edge::new(CONFIG);
    let data = BASE64.encode(GOOD);
    let get = |uri: String| edge.send(Request::get(uri).body(Body::empty()).unwrap());
    let (status, headers, _) = get(format!("/track/?img=1&data={data}")).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"image/png".parse().unwrap()));
    let (_, headers, body) = get(format!("/track/?data={data}")).await;
    assert_eq!((body.as_str(), &headers["content-type"]), ("1", &"text/plain; charset=utf-8".parse().unwrap()));
    let (_, headers, _) = get(format!("/track/?callback=f&data={data}")).await;
    assert_eq!(headers["content-type"], "text/javascript");
    assert_eq!(edge.stored().len(), 3);
}

#[tokio::test]
async fn a_strict_import_stores_the_good_and_names_the_bad() {
    let edge = Edge::new(CONFIG);
    let auth = basic("sa:sa-secret");
    let headers = [JSON, ("authorization", auth.as_str())];
    let import = |body: String| edge.post("/import?strict=1&project_id=12345", &headers, body);
    assert_eq!(import(format!("[{GOOD}]")).await, (200, STRICT_OK.to_owned()));
    let bad = r#"{"event":"a","properties":{"distinct_id":"u","$insert_id":"i-2","time":4102444800}}"#;
    let answer = import(format!("[{bad},{GOOD}]")).await;
    let expected = concat!(
        r#"{"code":400,"error":"some data points in the request failed validation","failed_records":["#,
        r#"{"index":0,"insert_id":"i-2","field":"properties.time","#,
        r#""message":"'properties.time' is invalid: must not be in the future"}],"#,
        r#""num_records_imported":1,"status":"Bad Request"}"#
    );
    assert_eq!(answer, (400, expected.to_owned()));
    assert_eq!(edge.stored().len(), 2);
}

#[tokio::test]
async fn an_import_says_how_it_was_taken_in_the_form_it_came() {
    let edge = Edge::new(CONFIG);
    let auth = basic("tok:");
    let auth = ("authorization", auth.as_str());
    let data = BASE64.encode(GOOD);
    let form = format!("data={data}");
    assert_eq!(edge.post("/import", &[auth], form.clone()).await, (200, "1".to_owned()));
    let verbose = r#"{"error":null,"status":1}"#.to_owned();
    assert_eq!(edge.post("/import/", &[auth], format!("{form}&verbose=1")).await, (200, verbose));
    let get = Request::get(format!("/import?data={data}")).header(auth.0, auth.1).body(Body::empty()).unwrap();
    assert_eq!(edge.send(get).await.2, "1");
    let probe = r#"{"error":"event, missing","status":0}"#.to_owned();
    assert_eq!(edge.post("/import", &[auth, JSON], "[{}]").await, (200, probe));
    assert_eq!(edge.stored().len(), 3);
}

#[tokio::test]
async fn an_import_without_credentials_stores_nothing() {
    let edge = Edge::new(CONFIG);
    let refused = r#"{"code":401,"error":"Invalid credentials","status":"Unauthorized"}"#;
    let wrong = [basic("sa:wrong"), basic("nope:"), "Bearer nope".to_owned(), basic("key-1:x")];
    for credentials in &wrong {
        let answer = edge.post("/import", &[JSON, ("authorization", credentials)], GOOD).await;
        assert_eq!(answer, (401, refused.to_owned()), "{credentials}");
    }
    assert_eq!(edge.post("/import", &[JSON], GOOD).await.0, 401);
    let form = format!("data={}", BASE64.encode(GOOD));
    assert_eq!(edge.post("/import", &[], format!("{form}&api_key=nope")).await.0, 401);
    let other = edge.post("/import?project_id=999", &[JSON, ("authorization", &basic("sa:sa-secret"))], GOOD).await;
    assert_eq!(other.0, 401);
    assert!(edge.stored().is_empty());

    let right = [basic("key-2:"), "Basic sa:sa-secret".to_owned(), "Bearer key-1".to_owned(), basic("key-1")];
    for credentials in &right {
        assert_eq!(edge.post("/import", &[JSON, ("authorization", credentials)], GOOD).await.0, 200, "{credentials}");
    }
    assert_eq!(edge.post("/import", &[], format!("{form}&api_key=key-1")).await, (200, "1".to_owned()));
}

#[tokio::test]
async fn too_much_is_halved_by_browsers_and_refused_for_others() {
    let edge = Edge::new(CONFIG);
    let many = format!("[{}]", vec![GOOD; 2001].join(","));
    let huge = "x".repeat(crate::mixpanel::MAX_BODY_BYTES + 1);
    let browser = ("origin", "https://shop.example");
    let auth = basic("sa:sa-secret");
    for body in [many, huge] {
        assert_eq!(edge.post("/track", &[], body.clone()).await, (200, "0".to_owned()));
        assert_eq!(edge.post("/track", &[browser], body.clone()).await.0, 413);
        let (status, text) = edge.post("/import", &[("authorization", &auth)], body).await;
        assert_eq!(status, 413);
        assert!(text.starts_with(r#"{"code":413,"error":"request exceeds max limit of "#), "{text}");
        assert!(text.ends_with(r#","status":"Request Entity Too Large"}"#), "{text}");
    }
    assert!(edge.stored().is_empty());
    let most = format!("[{}]", vec![GOOD; 2000].join(","));
    assert_eq!(edge.post("/track", &[], most).await, (200, "1".to_owned()));
    assert_eq!(edge.stored().len(), 2000);
}

#[tokio::test]
async fn a_store_that_cannot_take_more_asks_to_come_back() {
    let edge = Edge::new(CONFIG);
    let failures =
        [AppendError::Busy, AppendError::DiskFull { free: 1, watermark: 2 }, AppendError::Poisoned("sync".to_owned())];
    for failure in failures {
        *edge.journal.failure.lock().unwrap() = Some(failure);
        for uri in ["/track", "/engage?ip=1", "/groups?ip=1", "/import"] {
            let body = match uri {
                "/track" | "/import" => GOOD,
                _ => r#"{"$token":"tok","$distinct_id":"u","$group_key":"k","$group_id":"g","$set":{}}"#,
            };
            let request = Request::post(uri)
                .header("authorization", basic("sa:sa-secret"))
                .header("origin", "https://shop.example")
                .body(Body::from(body));
            let (status, headers, text) = edge.send(request.unwrap()).await;
            assert_eq!(status, 503, "{uri}");
            assert!(headers.contains_key("retry-after") && headers.contains_key("access-control-allow-origin"));
            let plain = if uri == "/import" { text.starts_with(r#"{"code":503,"#) } else { text == "0" };
            assert!(plain, "{uri}: {text}");
        }
        assert_eq!(edge.get("/readyz").await.0, 503);
        assert_eq!(edge.get("/healthz").await.0, 200);
    }
}

#[tokio::test]
async fn cors_headers_are_on_every_answer() {
    let edge = Edge::new(CONFIG);
    for (method, uri) in
        [("POST", "/track/"), ("GET", "/nothing/here"), ("DELETE", "/track"), ("POST", "/import"), ("GET", "/")]
    {
        let request = Request::builder().method(method).uri(uri).header("origin", "https://shop.example");
        let (status, headers, _) = edge.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(headers["access-control-allow-origin"], "https://shop.example", "{method} {uri}");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-expose-headers"], "retry-after,age,x-request-id,ratelimit,ratelimit-policy");
        assert!(!status.is_redirection());
    }
    let preflight = Request::builder()
        .method("OPTIONS")
        .uri("/record/")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,traceparent");
    let (status, headers, _) = edge.send(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type,traceparent");
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
}

#[tokio::test]
async fn only_listed_origins_are_echoed_when_there_is_a_list() {
    let edge = Edge::new(&CONFIG.replace("server: {", r#"server: { cors_origins: ["https://a.example"],"#));
    let ask = |origin: &'static str| Request::get("/").header("origin", origin).body(Body::empty()).unwrap();
    assert!(edge.send(ask("https://a.example")).await.1.contains_key("access-control-allow-origin"));
    assert!(!edge.send(ask("https://b.example")).await.1.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn unknown_paths_are_json() {
    let edge = Edge::new(CONFIG);
    assert_eq!(edge.get("/nothing").await, (404, r#"{"error":"no such route"}"#.to_owned()));
    assert!(edge.get("/").await.1.contains("Welcome"));
}
