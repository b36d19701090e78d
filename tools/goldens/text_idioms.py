"""One-line templates: what Jinja and Python do with single expressions, as models' templates use them.

Rendered with the variables below besides what every template sees.
"""

VARIABLES = {
    "s": "Hello, World",
    "blank": "  \tpadded text\n ",
    "zh": "你好,世界",
    "quotes": 'it\'s "quoted" \\ \n',
    "n": 7,
    "big": 12345678901,
    "neg": -3,
    "f": 2.5,
    "whole": 3.0,
    "tiny": 1e-7,
    "huge": 1e22,
    "t": True,
    "no": False,
    "nil": None,
    "xs": [3, 1, 2],
    "words": ["b", "A", "c"],
    "mixed": [1, "two", 3.0, None, True, ["x"], {"k": "v"}],
    "d": {"b": 1, "a": "x", "items": [1, 2], "n": None},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2, "w": False}, {"k": "x", "v": 3}],
}

IDIOMS = """\
{{ nil }} {{ t }} {{ no }} {{ n }} {{ f }} {{ whole }} {{ tiny }} {{ huge }} {{ big }}
{{ xs }} {{ words }} {{ mixed }}
{{ d }} {{ {} }} {{ [] }} {{ {'a': none} }}
{{ quotes }}|{{ [quotes] }}|{{ {'q': quotes} }}
{{ missing }}|{{ missing is defined }}|{{ d.missing is none }}|{{ d.missing is undefined }}
{{ [zh, 'é', '\u200b', 'e\u0301'] }}
{{ 'a' ~ 1 ~ none ~ true ~ 2.0 ~ 'b' }}
{{ 'x' ~ xs ~ d }}
{{ 1 + 2 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ -7 // 2 }} {{ -7 % 3 }}
{{ 'ab' * 3 }} {{ '=' * 10 }}
{{ 'a' 'b' }}
{{ xs + [4] }} {{ xs | length }} {{ s | length }} {{ d | length }} {{ zh|length }}
{{ xs[0] }} {{ xs[-1] }} {{ xs[1:] }} {{ xs[:-1] }} {{ xs[::-1] }} {{ xs[::2] }} {{ s[1:4] }} {{ s[-3:] }} {{ s[::-1] }} {{ zh[0] }}{{ zh[-1] }}
{{ d.b }} {{ d['a'] }} {{ d.get('a') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d['zz'] }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }},{% endfor %}
{{ d | dictsort }} {{ d['items'] }}
{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}
{{ 'a' in d }} {{ 'z' in d }} {{ 'ell' in s }} {{ 3 in xs }} {{ 9 not in xs }} {{ 'a' in ['a'] and not no }}
{{ t and 5 }} {{ no or 'x' }} {{ nil or '' }} {{ not nil }} {{ '' or nil }} {{ [] or 'empty' }}
{{ 'yes' if t else 'no' }} {{ 'yes' if no }}| {{ 'a' if xs else 'b' }}
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ s.capitalize() }} {{ 'hello wORLD-foo bar_baz it\\'s'.title() }}
{{ 'hello wORLD'.capitalize() }} {{ 'hello wORLD foo-bar' | title }} {{ 'ÉCOLE straße' | lower }} {{ 'straße' | upper }}
[{{ blank.strip() }}] [{{ blank.lstrip() }}] [{{ blank.rstrip() }}] [{{ blank | trim }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'abcba' | trim('ab') }}]
{{ s.split(', ') }} {{ ' a  b '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c d'.split(' ', 2)[-1] }} {{ 'a'.split('x') }}
{{ ' a b  c '.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b'.rsplit() }} {{ 'x'.split(',')[0] }}
{{ 'a\nb\r\nc'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }}
{{ s.startswith('Hell') }} {{ s.endswith('x') }} {{ s.startswith(('x', 'H')) }} {{ s.find('o') }} {{ s.find('zz') }} {{ s.rfind('o') }} {{ s.count('l') }} {{ zh.find('世') }}
{{ s.replace('l', 'L') }} {{ s.replace('l', '', 1) }} {{ s | replace('o', '0') }} {{ 'aaa' | replace('a', 'b', 2) }}
{{ ', '.join(words) }} {{ words | join('-') }} {{ mixed | join('|') }} {{ rows | join(', ', attribute='k') }} {{ xs | join }}
{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }}
{{ '7'.zfill(3) }} {{ 'a'.ljust(4) }}| {{ 'a'.rjust(4) }}| {{ 'a'.center(5) }}| {{ 'ab'.index('b') }} {{ '-7'.zfill(4) }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'Ab'.isupper() }} {{ 'ab'.islower() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }} {{ ''.isalpha() }}
{{ '{} and {}'.format(1, 'x') }} {{ '%.2f' | format(3.14159) }} {{ '{:>5}|{:<5}|{:05d}'.format('a', 'b', 42) }}
{{ s.swapcase() }} {{ 'ß'.casefold() }}
{{ d | tojson }} {{ mixed | tojson }} {{ s | tojson }} {{ nil | tojson }} {{ f | tojson }} {{ whole|tojson }} {{ huge | tojson }} {{ tiny | tojson }}
{{ d | tojson(indent=2) }} {{ mixed | tojson(indent=4) }} {{ {} | tojson(indent=2) }} {{ [] | tojson(indent=2) }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ zh | tojson(ensure_ascii=true) }} {{ d | tojson(indent=2, separators=(',', ': ')) }}
{{ d | tojson(indent='\t') }} {{ d | tojson(false, 1) }} {{ "<a href='x'>&</a>" | tojson }} {{ quotes | tojson }} {{ '\x7f\u2028' | tojson }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ missing | tojson }}
{{ (xs + [4]) | tojson }} {{ xs[1:] | tojson }} {{ messages[2:] | tojson }} {{ (xs | map('string') | list) | tojson }} {{ (1, 2) | tojson }} {{ s.split(',') | tojson }}
{{ [1] * 3 }} {{ words + ['x'] }} {{ ['a'] * 2 }} {{ ([1] * 3) | tojson }} {{ (xs + [4]) is sequence }} {{ xs[::-1] is sequence }} {{ (xs + xs) == [3, 1, 2, 3, 1, 2] }} {{ xs[::-1] | tojson }}
{{ (xs | reverse) | list }} {{ (words | sort) | tojson }} {{ (d | dictsort) | tojson }} {{ (xs | unique | list) | tojson }}
{{ xs | first }} {{ xs | last }} {{ xs | min }} {{ xs | max }} {{ xs | sum }} {{ xs | sort }} {{ xs | reverse | list }} {{ words | sort }} {{ words | sort(case_sensitive=true) }}
{{ rows | map(attribute='k') | list }} {{ words | map('upper') | join }} {{ rows | selectattr('k', 'equalto', 'x') | list | length }} {{ rows | rejectattr('w', 'defined') | map(attribute='v') | list }}
{{ rows | selectattr('w') | list }} {{ xs | select('odd') | list }} {{ xs | reject('gt', 2) | list }} {{ xs | select('>', 1) | list }} {{ rows | selectattr('w', 'defined') | list }}
{{ rows | map(attribute='w', default='-') | list }} {{ rows | sum(attribute='v') }} {{ rows | sort(attribute='v', reverse=true) | map(attribute='v') | list }} {{ rows | groupby('k') | length }}
{{ [1, 1, 2] | unique | list }} {{ [[1, 2], [3]] | sum(start=[]) }} {{ range(5) | batch(2) | list }} {{ range(3) | list }} {{ range(1, 10, 3) | list }}
{{ '3' | int + 1 }} {{ 'x' | int }} {{ '2.5' | float }} {{ 'x' | int(5) }} {{ 3.7 | int }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ neg | abs }} {{ 7 | string + 'a' }} {{ 2.3 | round(0, 'ceil') }}
{{ missing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ nil | default('d') }} {{ nil | d('e', true) }} {{ none | default('x', boolean=True) }}
{{ s | list }} {{ d | list }} {{ (1, 2) }} {{ (1,) }} {{ ('a', none) }}
{{ s is string }} {{ xs is string }} {{ d is mapping }} {{ xs is mapping }} {{ xs is iterable }} {{ s is iterable }} {{ d is iterable }} {{ n is iterable }}
{{ xs is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ nil is sequence }} {{ missing is iterable }} {{ missing is sequence }} {{ missing is string }} {{ missing is mapping }}
{{ n is number }} {{ t is number }} {{ f is number }} {{ s is number }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ t is boolean }} {{ n is boolean }} {{ whole is integer }}
{{ nil is none }} {{ t is true }} {{ no is false }} {{ 1 is true }} {{ n is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ n is eq 7 }} {{ n is sameas 7 }} {{ s is lower }} {{ range is callable }} {{ n is in [7] }}
{{ n == 7.0 }} {{ 1 == true }} {{ none == false }} {{ '1' == 1 }} {{ [1] == [1] }} {{ {'a': 1} == {'a': 1} }} {{ 1 < 2 }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ missing == none }} {{ 1 < 2 < 3 }}
{{ 'a' if missing else 'b' }} {% if missing.foo is defined %}x{% endif %}
{{ missing.foo }}
{{ nil.foo }}|{{ nil.foo is defined }}
{{ missing + 'x' }}
{{ 'x' + 1 }}
{{ 'x' + none }}
{{ s.foo }}|{{ s.foo is defined }}
{{ s.nope() }}
{{ xs[10] }}|{{ xs[10] is defined }}
{{ nosuchfunction() }}
{{ s | nosuchfilter }}
{{ s is nosuchtest }}
{% for x in missing %}a{% else %}none{% endfor %}
{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}
{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }} {{ loop.changed(x) }} {{ loop.depth }};{% endfor %}
{% for x in xs if x > 1 %}{{ loop.index }}:{{ x }} {% endfor %}
{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}
{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}
{% for c in 'añ😀' %}[{{ c }}]{% endfor %}
{% set x = 1 %}{% for i in xs %}{% set x = i %}{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b=[]) %}{% for i in xs %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }} {{ ns.b }}
{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }} {{ ns.y is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set (a, b) = (b, 3) %}{{ a }}|{{ b }}
{% set x %}block {{ n }}{% endset %}[{{ x }}] {{ x | length }} {{ x.upper() }}
{% set x | upper %}block{% endset %}{{ x }}
{% filter upper %}abc {{ s }}{% endfilter %}
{% macro m(a, b='B', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m('x', 'y') }} {{ m() }}
{% macro m(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call m(1) %}inner{% endcall %}
{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}{% call(x) m(1) %}in {{ x }}{% endcall %}
{% macro m(x) %}{{ s }}{{ x }}{% endmacro %}{% set s = 'new' %}{{ m(1) }}
{% macro m(k) %}{% if k > 0 %}{{ k }}{{ m(k - 1) }}{% endif %}{% endmacro %}{{ m(5) }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% raw %}{{ not rendered }} {% if %}{% endraw %}
{# comment #}a{#- dash -#} b
{%- if true -%} x {%- endif -%} y
a {%- if true %} b {% endif %} c {{- ' d ' -}} e
{% if n == 7 %}seven{% elif n == 8 %}eight{% else %}other{% endif %}
{% if n > 5 and (s or nil) and not no %}ok{% endif %}
{{ "double \\"quoted\\" \\n newline \\t tab \\u00e9 \\x41" }} {{ 'single \\'quoted\\'' }}
{{ raise_exception('bad: ' + s) }}
{{ raise_exception('bad ' ~ n) if n == 7 else 'fine' }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %B %Y, %A') }} {{ strftime_now('') }}|{{ strftime_now is defined }} {{ raise_exception is defined }}
{{ dict(a=1, b='x') }} {{ dict(d, z=1)['z'] }} {{ dict([('a', 1)]) }} {{ {'a': 1}['a'] }}
{{ {'a': {'b': [1, {'c': 2}]}}.a.b[1].c }} {{ rows[0].k }} {{ rows[-1]['v'] }} {{ rows[1:] | length }}
{{ s | upper | lower | capitalize }} {{ (s ~ '!') | upper }} {{ s|replace('World', 'X')|upper }} {{ -n }} {{ (n) }} {{ not t }}
{{ 'line1\nline2\n\nline4' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}
{{ '<b>' | e }} {{ '<b>' | escape }} {{ '<b>' | safe }}
{{ 10000000000000000000000 }} {{ 1_000 }} {{ 0x1f }} {{ 1e3 }} {{ 1.50 }}
{{ xs.index(1) }} {{ xs.count(1) }} {{ xs | list | length }} {{ xs.append(1) }}
{{ d.copy() }} {{ d.update({'x': 1}) }}
{{ xs.copy() }} {{ d.pop('a') }}
{{ (xs | length) - 1 }} {{ xs|length-1 }} {{ loop is defined }}
{{ true and none }} {{ True }} {{ None }} {{ False }} {{ none is none }} {{ 'None' == none | string }}
{{ 1 if false }}|{{ (1 if false) is defined }}
{{ [1, 2, 3][1] }} {{ 'abc'[1] }} {{ (1, 2)[0] }} {{ {'k': 5}.k }} {{ 'abc'.upper()[0] }}
{{ xs | map('string') | join(',') }} {{ rows | map(attribute='k') | unique | join(',') }} {{ words | map('lower') | sort | join }}
{{ messages | length }} {{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ bos_token }} {{ eos_token is defined }}
{{ 5 | tojson }} {{ '5' | tojson }} {{ big | tojson }} {{ neg | tojson }} {{ 0.1 + 0.2 }} {{ 1e100 }} {{ 123456789.123 }} {{ 1/3 }}
""".splitlines()

# Whitespace control needs lines of their own; `|` marks where a template begins and ends.
BLOCKS = [
    "  {% if true %}\n  a\n  {% endif %}\n  b\n",
    "x\n\n  {%- if true %}\n  a\n  {%- endif %}\nb\n\n",
    "{% for x in xs %}\n  {{ x }}\n{% endfor %}\nend",
    "{% for x in xs -%}\n  {{ x }}\n{%- endfor %}\nend\n\n\n",
    "  {%+ if true %}a{% endif %}\n",
    "a  {#- c -#}  b {# c #}\n  {# own line #}\nx",
    "{{ 'a' }}\n{{ 'b' }}\n",
    "{% set x = 1 %}\n\n{% set y = 2 %}\n{{ x }}\n  {{- y }}  \n",
    "\n\n{% if true %}\n\nx\n\n{% endif %}\n\n",
    "\t{% if true %}\tx\t{% endif %}\t\ny",
    "{% raw %}\n  a {{ b }}\n{% endraw %}\nc",
    "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc",
    "{%- macro f(x) %}\n  [{{ x }}]\n{% endmacro -%}\n{{ f(1) }}\n{{- f(2) -}}\n",
    "é中{% if true %} 😀 {%- endif %}\n  {% generation %}\n g {% endgeneration %}\n z",
    "{% generation %}a{%- endgeneration %} b {%- generation %} c {% endgeneration -%} d",
    "{{ x\n  if false\n  else 'multi' }}{%\n if true\n%}y{%\n endif %}",
    "{{ '{% if %}' }}{{ \"}}\" }}{{ '#}' }}",
    "{{'a'}}{{-'b'}}{{'c'-}}  {{'d'}}",
    "{% if true %}{{ 'a' }}{% endif +%}\nb",
    "lone } and { and %} and }} end\n",
]
