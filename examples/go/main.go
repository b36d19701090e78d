// Streams one chat over gRPC, and goes on at another master when its own is gone:
//
//	FATHOM_API_KEY=... generate HOST:PORT[,HOST:PORT...] QUESTION [MAX_TOKENS]
//
// FATHOM_TIMEOUT: seconds until the last token, over all masters; 60 when it is not set.
//
// What makes it survive, in the order of the code below:
//  1. The request has a name of its own (IdempotencyKey), so that it can be found again before its first token.
//  2. ResumeSeconds asks the server to go on for a moment when the connection breaks.
//  3. Every message has a resume token. The same request with the last one, at any master of the cluster, gets what
//     follows: nothing twice, nothing left out.
//  4. The stream is whole once a message with the usage has come; until then it goes on elsewhere, unless the server says
//     that the request itself is what ends its workers.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"fathom.example/generate/fathomv1"
)

const (
	holdSeconds  = 10
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// newRequest asks the only model that is served.
func newRequest(question string, maxTokens int) (*fathomv1.GenerateRequest, error) {
	messages, err := json.Marshal([]map[string]string{{"role": "user", "content": question}})
	if err != nil {
		return nil, err
	}
	temperature := float32(0)
	return &fathomv1.GenerateRequest{
		Input:          &fathomv1.GenerateRequest_Chat{Chat: &fathomv1.ChatInput{MessagesJson: string(messages)}},
		Sampling:       &fathomv1.Sampling{Temperature: &temperature},
		Stop:           &fathomv1.Stop{MaxTokens: int32(maxTokens)}, // 0: what the model's context leaves
		IdempotencyKey: rand.Text(),
		FirstTry:       true, // nothing can run under that name yet
		ResumeSeconds:  holdSeconds,
	}, nil
}

// stream prints what comes over one connection and keeps the place in request. It returns nil when all has come, else what
// ended it, with the trailing metadata that says more.
func stream(ctx context.Context, client fathomv1.InferenceClient, request *fathomv1.GenerateRequest) (metadata.MD, error) {
	// However this function ends, the call ends with it.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := client.Generate(ctx, request)
	request.FirstTry = false
	if err != nil {
		return nil, err
	}
	whole := false
	for {
		message, err := call.Recv()
		if whole && err != nil {
			return nil, nil
		}
		if err != nil {
			return call.Trailer(), err // io.EOF: it ended well, but too early
		}
		fmt.Print(message.GetTextDelta())
		request.ResumeToken = message.GetResumeToken()
		whole = message.GetUsage() != nil
	}
}

// retryAfter is when a master that has no room wants to be asked again.
func retryAfter(trailer metadata.MD) time.Duration {
	for _, text := range trailer.Get("retry-after-ms") {
		if milliseconds, err := strconv.Atoi(text); err == nil {
			return time.Duration(milliseconds) * time.Millisecond
		}
	}
	return 0
}

// mayPass tells whether another master, or the same one a moment later, may go on. Everything else is an answer.
func mayPass(err error, trailer metadata.MD) bool {
	// It has cost the cluster workers: it must not cost it more.
	if slices.Contains(trailer.Get("fathom-error-code"), "worker_lost") {
		return false
	}
	code := status.Code(err)
	return errors.Is(err, io.EOF) || code == codes.Unavailable || (code == codes.ResourceExhausted && retryAfter(trailer) > 0)
}

// pause is between nothing and a bound that doubles, so that clients do not come back all at once.
func pause(failures int) time.Duration {
	longest := min(longestPause, firstPause<<min(failures-1, 10))
	return mathrand.N(longest)
}

func run(masters []string, question string, maxTokens int, key string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	var clients []fathomv1.InferenceClient
	for _, master := range masters {
		connection, err := grpc.NewClient(master, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer connection.Close()
		clients = append(clients, fathomv1.NewInferenceClient(connection))
	}
	request, err := newRequest(question, maxTokens)
	if err != nil {
		return err
	}
	failures := 0 // since a token came last
	for i := 0; ; i = (i + 1) % len(clients) {
		place := request.ResumeToken
		trailer, err := stream(ctx, clients[i], request)
		if err == nil {
			fmt.Println()
			return nil
		}
		if !mayPass(err, trailer) {
			return fmt.Errorf("%s: %w", masters[i], err)
		}
		if request.ResumeToken != place {
			failures = 0
		}
		failures++
		wait := pause(failures)
		if len(clients) == 1 { // with a second master there is no need to wait for the one that is full
			wait = max(wait, retryAfter(trailer))
		}
		fmt.Fprintf(os.Stderr, "%s: %v; going on\n", masters[i], err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("no master has answered to the end in time; the last: %w", err)
		}
	}
}

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: generate HOST:PORT[,HOST:PORT...] QUESTION [MAX_TOKENS]")
		os.Exit(2)
	}
	maxTokens, timeout := 0, 60
	var err error
	if len(os.Args) > 3 {
		maxTokens, err = strconv.Atoi(os.Args[3])
	}
	if text := os.Getenv("FATHOM_TIMEOUT"); err == nil && text != "" {
		timeout, err = strconv.Atoi(text)
	}
	if err == nil {
		key := os.Getenv("FATHOM_API_KEY")
		err = run(strings.Split(os.Args[1], ","), os.Args[2], maxTokens, key, time.Duration(timeout)*time.Second)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
