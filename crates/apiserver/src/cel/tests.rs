//! The language and its libraries: what expressions are, and how they fail.

use serde_json::{Value, json};

use super::*;

/// Enough for every expression here.
const LIMIT: u64 = 1_000_000;

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "s": {"type": "string"}, "i": {"type": "integer"}, "d": {"type": "number"}, "b": {"type": "boolean"},
        "l": {"type": "array", "items": {"type": "string"}},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": {"type": "integer"}, "v": {"type": "string"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "o": {"type": "object", "properties": {"x": {"type": "integer"}, "foo-bar": {"type": "string"},
            "namespace": {"type": "string"}}},
        "t": {"type": "string", "format": "date-time"}, "du": {"type": "string", "format": "duration"},
        "ios": {"x-kubernetes-int-or-string": true}, "by": {"type": "string", "format": "byte"},
    }})
}

fn object() -> Value {
    json!({"s": "abc", "i": 3, "d": 1.5, "b": true, "l": ["a", "b"], "set": ["x", "y"],
        "ports": [{"n": 1, "v": "one"}, {"n": 2, "v": "two"}], "m": {"a": 1, "b": 2},
        "o": {"x": 7, "foo-bar": "fb", "namespace": "ns"}, "t": "2024-02-29T10:20:30Z", "du": "1h30m", "ios": "50%",
        "by": "aGk="})
}

fn compile(source: &str) -> Result<Program, String> {
    Program::compile(source, &[("self", declare(&schema(), false).unwrap())])
}

fn evaluate(source: &str) -> Result<Val, Fault> {
    let program = compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    program.evaluate(&[("self", value_of(&object(), &schema(), false))], &mut Meter::new(LIMIT))
}

fn all_true(sources: &[&str]) {
    for source in sources {
        assert_eq!(evaluate(source), Ok(Val::Bool(true)), "{source}");
    }
}

#[test]
fn operators_and_literals_mean_what_the_language_says() {
    all_true(&[
        "1 + 2 * 3 == 7 && -7 / 2 == -3 && 7 % 4 == 3",
        "0x1F == 31 && 5u == uint(5) && 1e3 == 1000.0 && .5 == 0.5",
        "'a' + \"b\" == 'ab' && r'\\d' == '\\\\d' && '''x'y''' == \"x'y\" && '\\u00e9' == 'é'",
        "b'hi' == self.by && size(self.by) == 2",
        "[1, 2] + [3] == [1, 2, 3] && 2 in [1, 2] && !('c' in self.l)",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1 && 'a' in {'a': 1} && self.m == {'a': 1, 'b': 2}",
        "true ? self.i == 3 : false",
        "!(self.i > 5) && !!self.b && self.d > 1 && self.i <= 3.0",
        "(self.i == 3 || 1 / 0 == 1) && (1 / 0 == 1 || self.i == 3)",
        "type(self.i) == int && type(self.ios) == string && type([]) == list && type(1) != double",
        "9223372036854775807 > 0 && -9223372036854775808 < 0",
    ]);
}

#[test]
fn macros_loop_and_ask_for_fields() {
    all_true(&[
        "has(self.s) && has(self.o.x) && !has({'a': 1}.b)",
        "self.l.all(x, x.size() == 1) && self.l.exists(x, x == 'b') && self.l.exists_one(x, x == 'a')",
        "self.l.map(x, x + '!') == ['a!', 'b!'] && [1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "self.m.all(k, self.m[k] > 0) && self.m.exists(k, k == 'a')",
        "[5, 6].all(i, v, v == i + 5) && self.m.exists(k, v, k == 'b' && v == 2)",
        "[5, 6].transformList(i, v, v * i) == [0, 6] && self.m.transformMap(k, v, v + 1) == {'a': 2, 'b': 3}",
        "self.ports.all(p, p.n > 0) && self.ports.filter(p, p.n == 2)[0].v == 'two'",
        "cel.bind(x, self.i * 2, x + x == 12)",
        "[1, 2].exists(x, 1 / (x - 1) == 1)",
    ]);
}

#[test]
fn optional_values_are_asked_without_a_fault() {
    all_true(&[
        "self.?s.hasValue() && self.?s.value() == 'abc' && self.?s.orValue('') == 'abc'",
        "!self.m[?'z'].hasValue() && self.m[?'a'].orValue(0) == 1 && !self.l[?9].hasValue()",
        "optional.of(1).or(optional.of(2)) == optional.of(1) && optional.none().orValue(3) == 3",
        "!optional.ofNonZeroValue('').hasValue() && optional.of(2).optMap(x, x * 2).value() == 4",
        "optional.of(2).optFlatMap(x, optional.of(x + 1)).value() == 3",
        "[?self.?s, ?self.m[?'z'].optMap(x, 'z')] == ['abc'] && {?'a': self.?s} == {'a': 'abc'}",
    ]);
}

#[test]
fn declared_fields_have_their_types_and_escaped_names() {
    all_true(&[
        "self.o.foo__dash__bar == 'fb' && self.o.__namespace__ == 'ns'",
        "self.t == timestamp('2024-02-29T10:20:30Z') && self.du == duration('90m')",
        "self.set == ['y', 'x'] && self.set + ['x', 'z'] == ['x', 'y', 'z']",
        "(self.ports + self.ports.filter(p, p.n == 1)).size() == 2",
        "type(self.ios) == int || self.ios.endsWith('%')",
    ]);
}

#[test]
fn texts_have_the_functions_of_the_strings_library() {
    all_true(&[
        "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'hello'.indexOf('l', 3) == 3 && 'hello'.indexOf('z') == -1",
        "'Abc'.lowerAscii() == 'abc' && 'Abc'.upperAscii() == 'ABC' && 'abc'.reverse() == 'cba'",
        "'a-b-c'.replace('-', '+') == 'a+b+c' && 'a-b-c'.replace('-', '', 1) == 'ab-c'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'a,b'.split(',', 0) == []",
        "'abc'.split('') == ['a', 'b', 'c'] && ['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'abcd'.substring(1, 3) == 'bc' && 'abcd'.substring(2) == 'cd' && '  x '.trim() == 'x'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'%s is %d, %.2f, %x, %%'.format(['a', 3, 1.5, 255]) == 'a is 3, 1.50, ff, %'",
        "'%s'.format([[1, 'a']]) == '[1, a]' && '%e'.format([1234.5]) == '1.234500e+03'",
        "'abc'.matches('^a.c$') && matches('abc', 'b') && 'a1b22'.find('[0-9]+') == '1'",
        "'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1b22'.findAll('[0-9]+', 1) == ['1']",
        "base64.encode(b'hello') == 'aGVsbG8=' && base64.decode('aGVsbG8=') == b'hello'",
    ]);
}

#[test]
fn lists_sets_and_numbers_have_their_functions() {
    all_true(&[
        "[1, 2, 2].isSorted() && ![2, 1].isSorted() && [3, 1].min() == 1 && ['a', 'c'].max() == 'c'",
        "[1, 2].sum() == 3 && [1.5, 2.5].sum() == 4.0 && ['a', 'b', 'a'].indexOf('b') == 1",
        "['a', 'b', 'a'].lastIndexOf('a') == 2 && [1, 2, 3].slice(1, 3) == [2, 3]",
        "[1, 1, 2].distinct() == [1, 2] && [2, 1].sort() == [1, 2] && [1, 2].reverse() == [2, 1]",
        "[[1], [2, 3]].flatten() == [1, 2, 3]",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2, 2], [2, 1]) && !sets.intersects([1], [2])",
        "math.greatest(1, 5) == 5 && math.least([3, 2]) == 2 && math.abs(-4) == 4",
        "int('5') == 5 && int(3.9) == 3 && double('1.5') == 1.5 && string(5) == '5' && uint(3) == 3u && bool('true')",
        "string(1.0) == '1' && string(duration('90s')) == '90s' && string(timestamp('2024-01-01T00:00:00Z')) == '2024-01-01T00:00:00Z'",
    ]);
}

#[test]
fn time_is_counted() {
    all_true(&[
        "self.t.getFullYear() == 2024 && self.t.getMonth() == 1 && self.t.getDate() == 29 && self.t.getDayOfMonth() == 28",
        "self.t.getHours() == 10 && self.t.getHours('+02:00') == 12 && self.t.getDayOfWeek() == 4 && self.t.getDayOfYear() == 59",
        "self.t + duration('1h') > self.t && self.t - self.t == duration('0s') && self.du.getMinutes() == 90",
        "duration('1.5s').getMilliseconds() == 1500 && duration('-1m') < duration('0') && int(timestamp(5)) == 5",
    ]);
}

#[test]
fn quantities_addresses_formats_and_versions_have_their_functions() {
    all_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').isLessThan(quantity('1'))",
        "quantity('1k').asInteger() == 1000 && quantity('1500m').asApproximateFloat() == 1.5 && !quantity('1m').isInteger()",
        "quantity('1').add(quantity('2')).sub(1).compareTo(quantity('2')) == 0 && quantity('-1').sign() == -1",
        "isQuantity('1Mi') && !isQuantity('1 Mi') && quantity('1000m') == quantity('1')",
        "url('https://u@h.example:80/a/b?x=1&x=2').getHost() == 'h.example:80' && url('https://h:1/').getPort() == '1'",
        "url('https://[::1]:80/p').getHostname() == '::1' && url('https://h/a?x=1&x=2').getQuery() == {'x': ['1', '2']}",
        "isURL('https://a') && isURL('/a') && !isURL('a b') && !isURL('../x') && url('https://h/a/b').getEscapedPath() == '/a/b'",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()",
        "isIP('::1') && !isIP('1.2.3') && ip.isCanonical('::1') && !ip.isCanonical('0::1') && string(ip('::1')) == '::1'",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && isCIDR('::/0')",
        "cidr('10.1.2.3/8').prefixLength() == 8 && cidr('10.1.2.3/8').ip() == ip('10.1.2.3')",
        "!format.dns1123Label().validate('my-label').hasValue() && format.dns1123Label().validate('A').hasValue()",
        "format.named('uuid').hasValue() && !format.named('nope').hasValue() && !format.dns1123LabelPrefix().validate('a-').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "isSemver('1.2.3') && !isSemver('v1.2') && isSemver('v1.2', true) && semver('1.2.3').minor() == 2",
    ]);
}

#[test]
fn faults_are_said_in_the_languages_words() {
    for (source, words) in [
        ("self.l[5] == ''", "index out of bounds: 5"),
        ("self.m['z'] == 1", "no such key: z"),
        ("1 / (self.i - 3) == 1", "division by zero"),
        ("9223372036854775807 + self.i > 0", "integer overflow"),
        ("self.ios > 5", "no such overload"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("quantity('x') == quantity('1')", "quantities must match the regular expression"),
    ] {
        let fault = evaluate(source).expect_err(source).to_string();
        assert!(fault.starts_with(words), "{source}: {fault}");
    }
}

#[test]
fn no_expression_runs_for_long() {
    let list = "[1,2,3,4,5,6,7,8,9,10]";
    let mut source = "a0 == 0".to_owned();
    for depth in 0..7 {
        source = format!("{list}.all(a{depth}, {source} || true)");
    }
    let program = compile(&source).unwrap();
    let mut meter = Meter::new(LIMIT);
    let variables = [("self", value_of(&object(), &schema(), false))];
    assert_eq!(program.evaluate(&variables, &mut meter), Err(Fault::Cost));
    assert!(meter.spent() < LIMIT + 100_000, "{}", meter.spent());
    let deep = format!("{}1{}", "(".repeat(1_000), ")".repeat(1_000));
    assert!(compile(&deep).unwrap_err().contains("expression recursion limit exceeded"));
    let long = format!("self.i{} > 0", " + 1".repeat(20_000));
    assert!(compile(&long).unwrap_err().contains("expression recursion limit exceeded"));
    assert!(compile(&format!("self.b{}", " && self.b".repeat(1_000))).is_ok());
}

#[test]
fn findings_read_as_upstream_writes_them() {
    let operand = "Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    let cases: &[(&str, &[(usize, &str)])] = &[
        ("self.nope == 1", &[(5, "undefined field 'nope'")]),
        ("self.s == 1", &[(8, "found no matching overload for '_==_' applied to '(string, int)'")]),
        ("self.i + self.d > 1.0", &[(8, "found no matching overload for '_+_' applied to '(int, double)'")]),
        ("nope", &[(1, "undeclared reference to 'nope' (in container '')")]),
        ("self.s.foo()", &[(11, "undeclared reference to 'foo' (in container '')")]),
        ("self.s.startsWith(1)", &[(18, "found no matching overload for 'startsWith' applied to 'string.(int)'")]),
        ("1 +", &[(4, operand)]),
        ("1 == 1 && ", &[(11, operand)]),
        ("self.l.all(x, x > 1)", &[(17, "found no matching overload for '_>_' applied to '(string, int)'")]),
        ("self.o.x.y == 1", &[(9, "type 'int' does not support field selection")]),
        ("size(self.i) > 1", &[(5, "found no matching overload for 'size' applied to '(int)'")]),
        ("self.m['a'] == 'b'", &[(13, "found no matching overload for '_==_' applied to '(int, string)'")]),
        ("has(self.nope)", &[(4, "undefined field 'nope'")]),
        ("has(self)", &[(5, "invalid argument to has() macro")]),
        ("self.i in self.l", &[(8, "found no matching overload for '@in' applied to '(int, list(string))'")]),
        ("!self.i", &[(1, "found no matching overload for '!_' applied to '(int)'")]),
        ("self.b ? 1 : 'a'", &[(8, "found no matching overload for '_?_:_' applied to '(bool, int, string)'")]),
        ("'abc", &[(1, "Syntax error: token recognition error at: ''abc'"), (5, operand)]),
        ("self.s.matches('[')", &[(16, "invalid matches argument")]),
        ("self.t > self.du", &[(8, "found no matching overload for '_>_' applied to '(timestamp, duration)'")]),
        ("self.i && true", &[(5, "expected type 'bool' but found 'int'")]),
        ("self.l.map(x, x+1) == []", &[(16, "found no matching overload for '_+_' applied to '(string, int)'")]),
        ("self.s.quantity()", &[(16, "found no matching overload for 'quantity' applied to 'string.()'")]),
        ("quantity(1)", &[(9, "found no matching overload for 'quantity' applied to '(int)'")]),
        ("a.b.c", &[(1, "undeclared reference to 'a' (in container '')")]),
        ("[1,'a'] == []", &[(4, "expected type 'int' but found 'string'")]),
        (
            "{1:'a'}.size() == 1 && self.i == 1u",
            &[(31, "found no matching overload for '_==_' applied to '(int, uint)'")],
        ),
        ("-self.s == ''", &[(1, "found no matching overload for '-_' applied to '(string)'")]),
        (
            "self.x() == self.y()",
            &[
                (7, "undeclared reference to 'x' (in container '')"),
                (19, "undeclared reference to 'y' (in container '')"),
            ],
        ),
        ("self.l.sum() > 1", &[(11, "found no matching overload for 'sum' applied to 'list(string).()'")]),
        (
            "x.exists(self)",
            &[
                (1, "undeclared reference to 'x' (in container '')"),
                (9, "undeclared reference to 'exists' (in container '')"),
            ],
        ),
        ("self.l.all(1, true)", &[(12, "argument must be a simple name")]),
        ("self.s.split(',').foo", &[(18, "type 'list(string)' does not support field selection")]),
        ("self.l.join(1) == ''", &[(12, "found no matching overload for 'join' applied to 'list(string).(int)'")]),
        ("self.s == 'a' ? true", &[(21, "Syntax error: mismatched input '<EOF>' expecting ':'")]),
    ];
    for (source, findings) in cases {
        let shown = |(column, message): &(usize, &str)| {
            let dots = ".".repeat(column - 1);
            format!("ERROR: <input>:1:{column}: {message}\n | {source}\n | {dots}^")
        };
        let wanted: Vec<String> = findings.iter().map(shown).collect();
        assert_eq!(compile(source).unwrap_err(), wanted.join("\n"), "{source}");
    }
}

#[test]
fn findings_of_later_lines_show_their_line() {
    let error = compile("self.i == 3 &&\n\tself.nope").unwrap_err();
    assert_eq!(error, "ERROR: <input>:2:6: undefined field 'nope'\n |  self.nope\n | .....^");
}

#[test]
fn fields_have_names_that_expressions_can_write() {
    for (name, escaped) in [
        ("a", Some("a")),
        ("a-b.c/d", Some("a__dash__b__dot__c__slash__d")),
        ("a__b", Some("a__underscores__b")),
        ("namespace", Some("__namespace__")),
        ("1a", None),
        ("ä", None),
    ] {
        assert_eq!(declared::escape(name).as_deref(), escaped, "{name}");
    }
}
