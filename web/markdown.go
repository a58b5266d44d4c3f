package web

import (
	"bytes"
	"html/template"
	"regexp"
	"strings"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/formatters/html"
	"github.com/alecthomas/chroma/v2/lexers"
	"github.com/alecthomas/chroma/v2/styles"
	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// highlightMost is the longest code that is coloured, in bytes: 600 lines take
// the highlighter some 35 ms, and rows are rendered while people wait.
const highlightMost = 12_000

// bareURL also takes hosts without a domain: a company's own, and this machine.
var bareURL = regexp.MustCompile(`^https?://[-a-zA-Z0-9._~%]+(?::\d+)?(?:[/#?][-a-zA-Z0-9@:%_+.~#$!?&/=\(\);,'">\^{}\[\]` + "`" + `]*)?`)

// markdown turns what the agent wrote into harmless HTML: goldmark with raw HTML
// shown as the text it is, so that an answer about <script> loses nothing, then
// bluemonday, which lets through nothing but what is listed here.
// Images are shown as links, because loading them tells their host who reads.
type markdown struct {
	parser goldmark.Markdown
	policy *bluemonday.Policy
}

func newMarkdown() *markdown {
	m := &markdown{
		parser: goldmark.New(
			goldmark.WithExtensions(extension.Table, extension.Strikethrough, extension.TaskList,
				extension.NewLinkify(extension.WithLinkifyURLRegexp(bareURL))),
			goldmark.WithRendererOptions(renderer.WithNodeRenderers(
				util.Prioritized(&ownRenderer{formatter: html.New(html.WithClasses(true), html.PreventSurroundingPre(true))}, 100))),
		),
		policy: bluemonday.NewPolicy(),
	}
	p := m.policy
	p.AllowElements("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del",
		"blockquote", "ul", "ol", "li", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "span", "div")
	p.AllowURLSchemes("http", "https", "mailto")
	p.RequireParseableURLs(true)
	p.AllowRelativeURLs(false)
	p.AllowAttrs("href").OnElements("a")
	p.AllowAttrs("title").OnElements("a")
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true)
	p.AllowAttrs("start").Matching(bluemonday.Integer).OnElements("ol")
	p.AllowAttrs("align").Matching(regexp.MustCompile(`^(left|right|center)$`)).OnElements("th", "td")
	p.AllowAttrs("type").Matching(regexp.MustCompile(`^checkbox$`)).OnElements("input")
	p.AllowAttrs("checked", "disabled").OnElements("input")
	p.AllowAttrs("class").Matching(regexp.MustCompile(`^(code|[a-z]{1,3}[0-9]?)$`)).OnElements("span", "pre")
	p.AllowAttrs("class").Matching(regexp.MustCompile(`^markup$`)).OnElements("p")
	p.AllowAttrs("data-lang").Matching(regexp.MustCompile(`^[a-zA-Z0-9+#._-]{1,24}$`)).OnElements("pre")
	return m
}

// html renders a whole text.
func (m *markdown) html(source string) template.HTML {
	var b bytes.Buffer
	if err := m.parser.Convert([]byte(source), &b); err != nil {
		// goldmark fails only when a renderer does; ours write to memory.
		return template.HTML("<p>" + template.HTMLEscapeString(source) + "</p>")
	}
	return template.HTML(m.policy.SanitizeBytes(b.Bytes()))
}

// ownRenderer renders code with the classes of chroma's tokens, images as links
// and HTML as text.
type ownRenderer struct {
	formatter *html.Formatter
}

func (c *ownRenderer) RegisterFuncs(reg renderer.NodeRendererFuncRegisterer) {
	reg.Register(ast.KindFencedCodeBlock, c.fenced)
	reg.Register(ast.KindImage, c.image)
	reg.Register(ast.KindRawHTML, c.rawHTML)
	reg.Register(ast.KindHTMLBlock, c.htmlBlock)
}

func (c *ownRenderer) rawHTML(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if entering {
		writeText(w, node.(*ast.RawHTML).Segments, source)
	}
	return ast.WalkSkipChildren, nil
}

func (c *ownRenderer) htmlBlock(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	n := node.(*ast.HTMLBlock)
	_, _ = w.WriteString(`<p class="markup">`)
	writeText(w, n.Lines(), source)
	if n.HasClosure() {
		_, _ = w.WriteString(template.HTMLEscapeString(string(n.ClosureLine.Value(source))))
	}
	_, _ = w.WriteString("</p>\n")
	return ast.WalkContinue, nil
}

func writeText(w util.BufWriter, segments *text.Segments, source []byte) {
	for i := range segments.Len() {
		segment := segments.At(i)
		_, _ = w.WriteString(template.HTMLEscapeString(string(segment.Value(source))))
	}
}

func (c *ownRenderer) fenced(w util.BufWriter, source []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	n := node.(*ast.FencedCodeBlock)
	var code strings.Builder
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		code.Write(line.Value(source))
	}
	language := string(n.Language(source))
	_, _ = w.WriteString(`<pre class="code" data-lang="` + template.HTMLEscapeString(language) + `"><code>`)
	if !c.highlight(w, language, code.String()) {
		_, _ = w.WriteString(template.HTMLEscapeString(code.String()))
	}
	_, _ = w.WriteString("</code></pre>\n")
	return ast.WalkSkipChildren, nil
}

// highlight writes coloured code and says whether it did.
func (c *ownRenderer) highlight(w util.BufWriter, language, code string) bool {
	lexer := lexers.Get(language)
	if lexer == nil || language == "" || len(code) > highlightMost {
		return false
	}
	tokens, err := chroma.Coalesce(lexer).Tokenise(nil, code)
	if err != nil {
		return false
	}
	var b bytes.Buffer
	if err := c.formatter.Format(&b, styles.Fallback, tokens); err != nil {
		return false
	}
	_, _ = w.Write(b.Bytes())
	return true
}

func (c *ownRenderer) image(w util.BufWriter, _ []byte, node ast.Node, entering bool) (ast.WalkStatus, error) {
	if entering {
		_, _ = w.WriteString(`<a href="` + template.HTMLEscapeString(string(node.(*ast.Image).Destination)) + `">`)
	} else {
		_, _ = w.WriteString("</a>")
	}
	return ast.WalkContinue, nil
}
