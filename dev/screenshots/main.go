// Command screenshots takes the pictures in docs/: it runs everything as
// `reauth dev` does, and photographs it with Chromium. `make screenshots` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/finch-reauth/reauth/dev"
)

func main() {
	program := flag.String("program", "bin/reauth", "the reauth program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *program, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program, folder string) error {
	if folder == "" {
		return errors.New("say into which folder the pictures shall go")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	data, err := os.MkdirTemp("", "reauth-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	e, err := dev.Start(ctx, dev.Options{
		Data: filepath.Join(data, "reauth"), Temporary: true, AutoPorts: true, Program: program, Environ: os.Environ(), Out: os.Stdout,
	})
	if err != nil {
		return err
	}
	defer e.Stop()
	waiting, err := e.WaitingCase(ctx)
	if err != nil {
		return err
	}

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.UserDataDir(filepath.Join(data, "chromium")))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	browser, cancel := chromedp.NewExecAllocator(ctx, options...)
	defer cancel()
	browser, cancel = chromedp.NewContext(browser)
	defer cancel()
	camera := camera{browser: browser, folder: folder}
	workflow := e.Ready().TemporalUIURL + "/namespaces/default/workflows/reauth-" + waiting.ConnectionID
	return errors.Join(
		camera.take("mail.png", waiting.MailURL, "iframe", 1100, 1000),
		camera.take("page.png", waiting.LinkURL, "#continue", 1100, 800),
		camera.take("page-phone.png", waiting.LinkURL, "#continue", 390, 800),
		camera.take("case-waiting.png", workflow, "[data-testid=event-summary-row]", 1440, 1100),
		e.Reconnect(ctx, waiting.LinkURL),
		camera.take("case-recovered.png", workflow, "[data-testid=event-summary-row]", 1440, 1100),
	)
}

type camera struct {
	browser context.Context
	folder  string
}

// take photographs a page once it shows what it is about. It does not wait for
// all that a page fetches, since that of a running workflow never ends.
func (c camera) take(name, address, shows string, width, height int64) error {
	err := chromedp.Do(c.browser,
		chromedp.EmulateViewport(width, height),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, page.Navigate, page.NavigateParams{URL: address})
			return err
		}),
	)
	if err != nil {
		return fmt.Errorf("opening what %s shows: %w", name, err)
	}
	query := fmt.Sprintf("document.querySelector(%q) !== null", shows)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if there, err := chromedp.Run(c.browser, chromedp.Evaluate[bool](query)); err == nil && there {
			break
		} else if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s does not show %s", name, shows), err)
		}
	}
	time.Sleep(3 * time.Second) // for the rest to be drawn
	picture, err := chromedp.Run(c.browser, chromedp.CaptureScreenshot())
	if err != nil {
		return fmt.Errorf("taking %s: %w", name, err)
	}
	path := filepath.Join(c.folder, name)
	fmt.Println(path)
	return os.WriteFile(path, picture, 0o644)
}
