use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn references_print_as_their_full_form_which_reads_back() {
    let with_digest = format!("quay.io/a/b@{SHA}");
    let both = format!("localhost:5000/a/b:v1@{SHA}");
    let table = [
        ("localhost/a", "docker://localhost/a:latest".to_owned()),
        ("a/b", "docker://docker.io/a/b:latest".to_owned()),
        ("a.b/c", "docker://a.b/c:latest".to_owned()),
        ("HOST/c", "docker://HOST/c:latest".to_owned()),
        (
            "a/b__c-d--e.f_1",
            "docker://docker.io/a/b__c-d--e.f_1:latest".to_owned(),
        ),
        ("x.io/a:V_1.-", "docker://x.io/a:V_1.-".to_owned()),
        (
            "debian",
            "docker://docker.io/library/debian:latest".to_owned(),
        ),
        (
            "debian:13",
            "docker://docker.io/library/debian:13".to_owned(),
        ),
        ("user/app", "docker://docker.io/user/app:latest".to_owned()),
        (
            "docker.io/debian",
            "docker://docker.io/library/debian:latest".to_owned(),
        ),
        (
            "index.docker.io/debian",
            "docker://docker.io/library/debian:latest".to_owned(),
        ),
        (
            "docker://quay.io/a/b",
            "docker://quay.io/a/b:latest".to_owned(),
        ),
        ("localhost/a", "docker://localhost/a:latest".to_owned()),
        (
            "localhost:5000/a",
            "docker://localhost:5000/a:latest".to_owned(),
        ),
        (
            "127.0.0.1:5000/a:x",
            "docker://127.0.0.1:5000/a:x".to_owned(),
        ),
        (with_digest.as_str(), format!("docker://quay.io/a/b@{SHA}")),
        (
            both.as_str(),
            format!("docker://localhost:5000/a/b:v1@{SHA}"),
        ),
        ("oci:dir", "oci:dir".to_owned()),
        ("oci:/abs/dir:v1", "oci:/abs/dir:v1".to_owned()),
        (
            "oci:dir:quay.io/a/b:v1",
            "oci:dir:quay.io/a/b:v1".to_owned(),
        ),
        ("oci-archive:x.tar:v1", "oci-archive:x.tar:v1".to_owned()),
        ("docker-archive:x.tar", "docker-archive:x.tar".to_owned()),
        (
            "docker-archive:x.tar:@2",
            "docker-archive:x.tar:@2".to_owned(),
        ),
        (
            "docker-archive:x.tar:app",
            "docker-archive:x.tar:docker.io/library/app:latest".to_owned(),
        ),
        (
            "dir:/srv/root:with:colons",
            "dir:/srv/root:with:colons".to_owned(),
        ),
    ];
    for (text, full) in table {
        let parsed: ImageReference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(parsed.to_string(), full, "{text}");
        assert_eq!(full.parse().as_ref(), Ok(&parsed), "{full}");
    }
}

#[test]
fn a_digest_selects_within_a_layout() {
    for transport in ["oci", "oci-archive"] {
        let text = format!("{transport}:some/where@{SHA}");
        let parsed: ImageReference = text.parse().unwrap();
        let (ImageReference::OciLayout { path, select }
        | ImageReference::OciArchive { path, select }) = &parsed
        else {
            panic!("{parsed:?}")
        };
        assert_eq!(path, Path::new("some/where"));
        assert_eq!(select, &LayoutSelect::Digest(SHA.parse().unwrap()));
        assert_eq!(parsed.to_string(), text);
    }
}

#[test]
fn a_digest_wins_over_the_tag() {
    let r: RegistryReference = format!("quay.io/a/b:v1@{SHA}").parse().unwrap();
    assert_eq!(r.tag(), Some("v1"));
    assert_eq!(r.tag_or_digest(), SHA);
}

#[test]
fn what_is_no_reference_is_refused_with_what_was_expected() {
    let table = [
        ("", "expected"),
        ("docker://", "expected [HOST"),
        ("docker:/x", "two slashes"),
        ("Debian", "lower-case"),
        ("quay.io/a/B:x", "lower-case"),
        ("a b", "white space"),
        ("a@sha256:1234", "not a digest"),
        ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "not a digest"),
        ("a:", "\"\" is no tag"),
        ("a:.x", "is no tag"),
        ("a/", "is no part"),
        ("a//b", "is no part"),
        ("quay.io/", "is no part"),
        ("a/-b", "is no part"),
        ("a/b..c", "is no part"),
        ("a/b___c", "is no part"),
        ("a/b_", "is no part"),
        ("a/ä", "is no part"),
        ("-x.io/a", "is no host"),
        ("x..io/a", "is no host"),
        ("x.io:/a", "is no host"),
        ("x.io:99999/a", "is no host"),
        ("x.io:5000:1/a", "is no host"),
        ("oci:", "oci:DIR[:TAG|@DIGEST]"),
        ("oci::tag", "oci:DIR[:TAG|@DIGEST]"),
        ("oci:dir:", "the tag is empty"),
        ("oci:dir:a b", "letters, digits"),
        ("oci:dir@sha256:12", "not a digest"),
        ("oci-archive:", "oci-archive:FILE"),
        ("docker-archive:", "docker-archive:FILE"),
        ("docker-archive:x:@y", "no number"),
        ("docker-archive:x:UPPER", "lower-case"),
        ("dir:", "dir:PATH"),
        ("containers-storage:localhost/x", "podman save"),
        ("docker-daemon:x:latest", "docker save"),
        ("https://quay.io/x", "without a scheme"),
        ("/no/such/thing.tar", "docker-archive:/no/such/thing.tar"),
        ("./no-such-thing", "dir:./no-such-thing"),
    ];
    for (text, part) in table {
        let error = text.parse::<ImageReference>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let both = format!("oci:dir:v1@{SHA}").parse::<ImageReference>();
    assert!(both.unwrap_err().to_string().contains("exclude each other"));
}

#[test]
fn a_path_that_exists_is_told_its_transport() {
    let dir = tempfile::tempdir().unwrap();
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let error = |text: &str| text.parse::<ImageReference>().unwrap_err().to_string();

    let plain = text(dir.path());
    assert!(error(&plain).contains(&format!("dir:{plain}")));
    let file = text(&dir.path().join("x.tar"));
    fs::write(&file, "").unwrap();
    assert!(error(&file).contains(&format!("oci-archive:{file}")));
    fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    assert!(error(&plain).contains(&format!("write oci:{plain}")));
}
