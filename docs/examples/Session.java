import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What became of a session, and the UPO of each accepted invoice as a PDF in this folder.
 *
 * <p>KSEF_SERVICE=http://127.0.0.1:8080 KSEF_USER=… KSEF_PASSWORD=… java Session.java test REF
 *
 * <p>The JDK reads no JSON: take your own library in place of the two patterns.
 */
public final class Session {
    private static final Pattern NEXT = Pattern.compile("\"nextCheckAfter\":(\\d+)");
    private static final Pattern ACCEPTED =
            Pattern.compile("\"ksefNumber\":\"([^\"]+)\",\"acquisitionDate\"");
    private static final long PAUSE = Long.parseLong(System.getenv().getOrDefault("KSEF_PAUSE", "30"));
    private static final Duration PATIENCE = Duration.ofHours(1);

    private static final HttpClient HTTP =
            HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
    private static final String LOGIN = Base64.getEncoder().encodeToString(
            (System.getenv("KSEF_USER") + ":" + System.getenv("KSEF_PASSWORD"))
                    .getBytes(StandardCharsets.UTF_8));

    /** The body of a 200, asked for again for as long as that may help. */
    private static byte[] get(String path, String accept) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("KSEF_SERVICE") + path))
                .header("Authorization", "Basic " + LOGIN)
                .header("Accept", accept)
                .timeout(Duration.ofSeconds(40))
                .build();
        long giveUp = System.nanoTime() + PATIENCE.toNanos();
        while (true) {
            long wait = PAUSE;
            String problem = "no connection";
            try {
                HttpResponse<byte[]> answer = HTTP.send(request, HttpResponse.BodyHandlers.ofByteArray());
                int status = answer.statusCode();
                if (status == 200) {
                    return answer.body();
                }
                problem = new String(answer.body(), StandardCharsets.UTF_8);
                var retryAfter = answer.headers().firstValueAsLong("Retry-After");
                wait = retryAfter.orElse(PAUSE);
                boolean mayCome = status == 404 && retryAfter.isPresent();
                if (status < 500 && status != 409 && !mayCome) {
                    throw new IllegalStateException(problem);
                }
            } catch (IOException noConnection) {
                // asked again, as after a 5xx
            }
            if (System.nanoTime() + Duration.ofSeconds(wait).toNanos() > giveUp) {
                throw new IllegalStateException(problem);
            }
            System.err.println(problem);
            Thread.sleep(Duration.ofSeconds(wait).toMillis());
        }
    }

    public static void main(String[] arguments) throws Exception {
        String path = "/invoices/" + arguments[0] + "/status/" + arguments[1];
        String session = new String(get(path, "application/json"), StandardCharsets.UTF_8);
        while (!session.contains("\"final\":true")) {
            Matcher next = NEXT.matcher(session);
            Thread.sleep(1000L * (next.find() ? Long.parseLong(next.group(1)) : PAUSE));
            session = new String(get(path, "application/json"), StandardCharsets.UTF_8);
        }
        System.out.println(session);
        Matcher accepted = ACCEPTED.matcher(session);
        while (accepted.find()) {
            String number = accepted.group(1);
            byte[] upo = get(path + "/" + number + "/upo?docType=pdf", "application/pdf");
            Files.write(Path.of(number + "-upo.pdf"), upo);
        }
    }
}
